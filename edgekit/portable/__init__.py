"""The client in every bundle, for hosts without edgekit. It uses only the standard library."""
