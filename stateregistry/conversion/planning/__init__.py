"""Planning: from pairs to a checked list of moves. Metadata alone."""
