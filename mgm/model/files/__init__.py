"""Files on disk and on the hub: JSON, weight files, tensors that are read when needed."""
