"""Inference: requests in, answers out, whole or piece by piece."""
