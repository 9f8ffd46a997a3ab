"""Mini-Gemini in vLLM; imported by vLLM alone."""
