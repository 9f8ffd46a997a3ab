"""The vision path: ViT, ConvNeXt, patch info mining, projector."""
