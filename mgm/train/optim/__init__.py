"""Which parameters are trained, in which groups, and what is recomputed."""
