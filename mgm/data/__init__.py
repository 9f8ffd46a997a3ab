"""Conversation templates, tokenizers, images, processor, data sources, datasets, data doctor."""
