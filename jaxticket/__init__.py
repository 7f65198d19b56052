"""Lottery-ticket experiments in JAX: find, train and judge tickets, many seeds side by side."""
