"""Experiments that train models with different fusions of the two encoders, and compare them."""
