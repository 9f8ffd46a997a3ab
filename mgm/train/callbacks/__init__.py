"""Trainer callbacks and metrics: progress, validation, benchmarks, losses by data set, profile."""
