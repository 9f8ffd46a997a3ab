"""Model inputs: prompt builder, image encoder and encoder cache."""
