"""Optional tools of a worker and the CLI: OCR and image generation."""
