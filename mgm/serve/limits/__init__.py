"""What bounds the cost of a peer's bytes: parsing, interim responses, memory of bodies."""
