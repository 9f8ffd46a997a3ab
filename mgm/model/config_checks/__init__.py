"""Configs as untrusted input: values that make sense, and that the weights agree with."""
