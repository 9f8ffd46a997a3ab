"""Continuous batching: scheduler, prefill, decode, n-gram speculative decoding, beam search."""
