"""Image files to RGB pixels."""
