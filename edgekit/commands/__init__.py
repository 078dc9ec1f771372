"""The commands, one per file, for the command line and for Python."""
