"""Weight names and config fields of the published checkpoints."""
