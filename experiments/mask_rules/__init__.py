"""Masks that move during training: figure 5-1 of Frankle's thesis measured, and RigL's numbers."""
