"""The recipe's model as one module with flat tensors, without wrappers and randomness."""
