"""The training loop, distillation, held-out data."""
