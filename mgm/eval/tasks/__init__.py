"""What a benchmark is made of: base class, data files, prompts, files of predictions."""
