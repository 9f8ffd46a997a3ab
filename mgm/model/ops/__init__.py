"""Losses, kernels and attention implementations."""
