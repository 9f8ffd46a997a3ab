"""Metrics by the rules of the official scripts and of others' harnesses."""
