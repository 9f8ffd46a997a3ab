"""Conversation templates, tokenizers, token ids and labels, stop criteria."""
