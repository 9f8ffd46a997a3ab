"""Which image tokens an answer looked at, and what those mined."""
