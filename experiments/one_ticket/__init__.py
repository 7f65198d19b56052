"""Morcos et al., "One ticket to win them all" (2019)."""
