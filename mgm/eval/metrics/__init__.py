"""Metrics and answer extraction by the rules of official scripts, lmms-eval and VLMEvalKit."""
