"""Quantised weights: int8, and bitsandbytes' LLM.int8() and NF4."""
