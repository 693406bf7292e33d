"""Execution, one job to a file: what a plan makes of its source, its conditions, its residual, and the moves as recipes."""
