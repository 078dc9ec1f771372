"""The recipe, its tensors, and errors with the user's file and line."""
