"""A smaller float model in the place of the recipe's, and a report of each step."""
