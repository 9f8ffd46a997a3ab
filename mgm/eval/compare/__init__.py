"""Paired comparison of models, question by question, by the metric of the report."""
