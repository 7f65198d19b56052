"""Frankle's thesis (2023), chapter 5: pruning early in training."""
