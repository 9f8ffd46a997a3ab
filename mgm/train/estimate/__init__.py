"""Estimates of memory, FLOPs and duration of a run."""
