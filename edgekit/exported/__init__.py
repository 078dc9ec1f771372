"""An exported program (model.pt2) in place of a recipe."""
