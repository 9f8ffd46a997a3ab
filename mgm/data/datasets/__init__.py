"""Training datasets (files, mixtures, packed rows, streams), samplers and collators."""
