"""From prompts and images to embeddings: prompt builder, image encoder and its cache."""
