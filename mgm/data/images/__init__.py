"""Opens and decodes images to RGB, within limits of size and memory."""
