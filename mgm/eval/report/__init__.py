"""Scores with confidence intervals, the report of a model, comparison with the paper."""
