"""Benchmark definitions: base class, data files, prompts, predictions files."""
