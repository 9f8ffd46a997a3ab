"""The OpenAI API: request bodies, their errors, and their meaning for the engine."""
