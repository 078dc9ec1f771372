"""Runtimes: the seam (base.py) and a folder for each runtime behind it."""
