"""Stateful models: finds the state and turns it into inputs and outputs."""
