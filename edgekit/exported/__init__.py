"""A program that was exported elsewhere (model.pt2), in the recipe's place."""
