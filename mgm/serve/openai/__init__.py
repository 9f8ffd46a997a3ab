"""The OpenAI API: request bodies, validation errors, engine requests, responses."""
