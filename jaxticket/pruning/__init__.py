"""Pruning: scores of weights, layouts of densities, and the exact choice of what is kept."""
