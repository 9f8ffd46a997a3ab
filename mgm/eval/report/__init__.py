"""Scores with intervals, tables, and the results of the paper."""
