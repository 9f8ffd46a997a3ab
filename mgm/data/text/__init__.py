"""Conversations to token ids and labels: chat templates, tokenizers, label masks, stop criteria."""
