"""The worker: one model behind HTTP."""
