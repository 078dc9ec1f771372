"""Simulated int8: ranges, scales, repairs."""
