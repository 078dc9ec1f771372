"""Low rank: layers as products of smaller ones."""
