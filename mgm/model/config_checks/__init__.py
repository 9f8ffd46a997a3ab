"""Validation of configs from files: fields, and agreement with the weights."""
