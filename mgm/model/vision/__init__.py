"""Vision side: ViT, ConvNeXt, patch info mining, projector, image views."""
