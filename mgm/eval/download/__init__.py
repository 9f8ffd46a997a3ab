"""Downloads of benchmarks' files: resumable HTTP downloads, hub data sets, safe unpacking."""
