"""Plug-in for vLLM, which alone imports it: model, processor and tokenizer."""
