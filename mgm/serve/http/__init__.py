"""HTTP of every server: OpenAI requests and responses, middleware, heartbeats, start-up."""
