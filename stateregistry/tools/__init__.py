"""Tools: written once, over any registry."""
