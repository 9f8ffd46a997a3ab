"""Fusion of both vision towers' outputs into image tokens: patch info mining and ablations."""
