"""What Pillow does not tell, or does slowly, of some file formats."""
