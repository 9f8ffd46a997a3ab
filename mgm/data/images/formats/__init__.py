"""Format-specific code beside Pillow: AVIF frame sizes, fast JPEG decoding, TIFF tags."""
