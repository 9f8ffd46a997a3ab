"""Atomic checkpoints, and checks that a resumed run continues the one that wrote its checkpoint."""
