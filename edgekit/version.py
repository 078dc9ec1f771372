"""The version of edgekit; documents and bundles carry it."""

__version__ = "0.1.0"
