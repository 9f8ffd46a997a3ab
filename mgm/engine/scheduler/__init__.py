"""Continuous batching: prefill, decode, n-gram drafts, beam search."""
