"""Collects the results of units and reports differences of arms with confidence intervals."""
