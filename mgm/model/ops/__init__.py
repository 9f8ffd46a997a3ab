"""Losses, attention implementations, liger kernels, torch.compile."""
