"""Collects the results of units and reports differences between arms with confidence intervals."""
