"""Ways to find masks: iterative pruning, pruning once at a step, and learned masks."""
