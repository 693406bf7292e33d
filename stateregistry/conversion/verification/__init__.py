"""Verification: whether two models hold the same state and compute the same, and where they begin to differ."""
