"""The recipe, its tensors, and errors that point at the user's line."""
