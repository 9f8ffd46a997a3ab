"""Names of the published checkpoints: weights and config fields."""
