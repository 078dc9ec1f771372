"""Devices: the transport seam (base.py), this host (local.py), and what a device tells (facts/)."""
