"""Losses, attention implementations, oneDNN and liger kernels, torch.compile."""
