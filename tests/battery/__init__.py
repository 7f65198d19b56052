"""Seeded runs over all public functions, and what they gave when they were recorded."""
