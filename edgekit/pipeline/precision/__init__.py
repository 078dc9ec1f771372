"""From a model to an artifact that is good enough: quantize, lower, parity, ladder."""
