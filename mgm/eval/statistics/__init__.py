"""Confidence intervals and paired tests for clustered questions."""
