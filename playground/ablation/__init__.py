"""Ablation study: trains models with different fusions of the two encoders, and compares them."""
