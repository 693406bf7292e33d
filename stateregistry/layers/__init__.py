"""Layers: the neutral vocabulary of model parts and the algebra of their named axes."""
