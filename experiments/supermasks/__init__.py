"""Networks that are accurate without training their weights."""
