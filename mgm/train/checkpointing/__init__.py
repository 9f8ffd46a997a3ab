"""Atomic checkpoints, resume with RNG state, and checks that a checkpoint belongs to the run."""
