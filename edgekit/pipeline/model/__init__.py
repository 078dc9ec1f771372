"""The model that a build works on: its source, data, predict, and what is cached of it."""
