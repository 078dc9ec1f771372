"""Pruning and recovery of the float model, with a report of each step."""
