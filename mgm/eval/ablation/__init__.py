"""Ablations of the vision side (`--ablate`): runs, and paired differences from the full model."""
