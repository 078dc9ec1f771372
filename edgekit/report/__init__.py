"""What a person looks at. Reads documents only."""
