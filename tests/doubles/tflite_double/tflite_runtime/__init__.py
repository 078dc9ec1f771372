"""A stand-in for tflite_runtime: tests of its runner then need no wheel and no old NumPy."""

__version__ = "2.14.0"
