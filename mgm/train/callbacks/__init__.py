"""What watches a run: progress, validation, benchmarks, loss of each data set, warm-up profile."""
