"""Frankle's thesis (2023), chapter 6: what comes next."""
