"""vLLM plug-in: model, processor and tokenizer; imported by vLLM only."""
