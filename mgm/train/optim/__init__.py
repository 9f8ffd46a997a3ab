"""Trained parameters, their optimizer groups, and activation checkpointing."""
