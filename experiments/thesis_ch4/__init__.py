"""Frankle's thesis (2023), chapter 4: instability and rewinding."""
