"""Rewrites of an exported graph before it is lowered."""
