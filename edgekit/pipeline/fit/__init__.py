"""Budgets drive the compression: a search over input sizes, blocks and channels."""
