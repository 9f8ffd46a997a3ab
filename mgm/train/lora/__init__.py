"""Adapters: LoRA, DoRA and QLoRA."""
