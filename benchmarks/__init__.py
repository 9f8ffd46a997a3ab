"""Speed and memory side by side: `python -m benchmarks.vision`, `.loss`, `.preprocess`."""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler tells of every start and stop
