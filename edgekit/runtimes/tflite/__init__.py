"""tflite-runtime, for devices whose system is too old for LiteRT's library, or 32-bit.

It runs LiteRT's files by the device's Python. On this host LiteRT's own runner runs them.
"""
