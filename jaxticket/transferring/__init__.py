"""Transfer of tickets to other data, optimizers, networks and depths."""
