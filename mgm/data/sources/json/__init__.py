"""JSON and JSONL data files: incremental parser, records, and index for random access."""
