"""Model worker: one model behind HTTP, with a request queue, streaming, downloads, metrics."""
