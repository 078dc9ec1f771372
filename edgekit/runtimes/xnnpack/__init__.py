"""XNNPACK, the delegate of several runtimes: its names for operators."""
