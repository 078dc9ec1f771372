"""How near outputs are to those of the float model, or of the host: the rules of acceptance."""
