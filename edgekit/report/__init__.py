"""Output for people, made from documents only."""
