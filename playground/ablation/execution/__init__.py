"""Runs units: one arm, size and seed each, in processes that may be paused, killed and resumed."""
