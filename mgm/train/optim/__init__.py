"""Freezing, optimizer parameter groups (learning rate per module), gradient checkpointing."""
