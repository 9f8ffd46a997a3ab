"""Estimates of memory, FLOPs (MFU) and duration of a run."""
