"""Measuring: agreement of outputs, latency statistics, the environment of a measurement."""
