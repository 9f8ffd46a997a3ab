"""Our checkpoints in lmms-eval; imported by lmms-eval alone."""
