"""Checkpoints of every layout: reading, loading, saving, converting, merging LoRA."""
