"""Conversations to token ids and labels: templates, tokenizers, stop criteria."""
