"""Several computers for one task: workers that compute the pieces of a search."""
