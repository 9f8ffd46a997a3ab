"""Conversation formats: parses records of LLaVA, ShareGPT, OpenAI and others to samples."""
