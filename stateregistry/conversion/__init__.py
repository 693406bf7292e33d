"""Conversion: plan, then move bytes."""
