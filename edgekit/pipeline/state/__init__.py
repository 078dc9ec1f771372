"""Models with state: found, and made inputs and outputs."""
