"""Files of checkpoints: JSON, safetensors and PyTorch weights, tokenizers, the hub."""
