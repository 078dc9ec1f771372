"""The model of a build: source, data, ``predict``, fingerprint and stage cache."""
