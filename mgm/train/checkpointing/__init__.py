"""Atomic checkpoints, and checks that a resumed run is the one that wrote its checkpoint."""
