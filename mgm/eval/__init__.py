"""Evaluation: benchmarks, model back ends, LLM judge, metrics, confidence intervals, reports."""
