"""Trials: layers built natively and held against their formulas, so that what an adapter declares of a layout is a number."""
