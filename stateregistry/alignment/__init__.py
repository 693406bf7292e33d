"""Alignment: which layer of one model is which of another, from metadata alone. See docs/alignment.md."""
