"""The flags of a run, and what contradicts itself among them."""
