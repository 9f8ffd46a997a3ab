"""Limits on the cost of untrusted input: parsing, interim responses, memory of bodies."""
