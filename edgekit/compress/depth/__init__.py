"""Depth: remove whole residual blocks."""
