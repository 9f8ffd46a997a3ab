"""The model: configuration, modeling, vision towers, patch info mining, checkpoints."""
