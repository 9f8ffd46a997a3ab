"""Adapter for lmms-eval: `--model mgm`; imported by lmms-eval only."""
