"""Frankle's thesis (2023), chapter 3: tickets at initialization."""
