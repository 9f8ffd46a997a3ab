"""Data sets of training: files, mixtures, packed rows, streams; samplers and collator."""
