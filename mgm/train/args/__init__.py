"""Training flags and their validation."""
