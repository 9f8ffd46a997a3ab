"""HTTP servers: middleware, connections, concurrency limit, heartbeats, start-up."""
