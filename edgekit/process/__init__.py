"""This process: signals, and how torch's threads wait."""
