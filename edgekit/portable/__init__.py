"""What travels in a bundle, to be used where edgekit is not: nothing but the standard library."""
