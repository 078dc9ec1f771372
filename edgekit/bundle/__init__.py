"""Bundles: the deployed files (manifest.py), and the results of the build (verdict.py)."""
