"""Checkpoints of every layout: read, loaded, converted, put together from components."""
