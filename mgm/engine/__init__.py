"""Inference engine: continuous batching, KV and prefix caches, streaming."""
