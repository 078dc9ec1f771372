"""Latency on a device that was calibrated: measured operators, a fit to them, and their storage."""
