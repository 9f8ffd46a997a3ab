"""Training in two stages: alignment of mining and projector, then instruction tuning."""
