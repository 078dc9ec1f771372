"""Devices: the transport interface (base.py), its implementations, and device facts (facts/)."""
