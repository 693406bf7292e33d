"""Reports: what people want to know of a registry, a plan or a difference, as data that any surface can show."""
