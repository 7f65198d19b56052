"""Arora and Teuscher, "Concrete Ticket Search" (2025)."""
