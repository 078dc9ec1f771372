"""Torch model to torch model: ranges, equalization, correction, rounding, training."""
