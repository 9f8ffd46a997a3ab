"""Tar archives of samples in WebDataset format."""
