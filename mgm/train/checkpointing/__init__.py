"""Checkpoints that appear complete, and what a resumed run must have in common with its first."""
