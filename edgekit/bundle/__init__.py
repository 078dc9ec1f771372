"""Bundles: the folder that is deployed (manifest.py), and what was found out (verdict.py)."""
