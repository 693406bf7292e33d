"""Pairing: what alignment finds becomes pairs of layers and entries, or questions in the words of the user."""
