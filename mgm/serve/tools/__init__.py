"""Optional tools beside a model: OCR and image generation."""
