"""Speed and memory of mgm and the published implementation: `python -m benchmarks.vision`, ..."""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # no log line for each start of torch's profiler
