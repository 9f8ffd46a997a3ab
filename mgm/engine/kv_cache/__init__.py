"""KV cache of running sequences, prefix cache, attention masks."""
