"""Lottery tickets in networks that are not part of the package: transformers."""
