"""What `benchmarks/conversion.py` measures: a checkpoint, the routes from it, and how what they wrote is looked at."""
