"""Training on the recipe's data: int8, recovery after pruning, distillation."""
