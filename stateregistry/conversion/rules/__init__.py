"""Rules: what the user says, made concrete, applied and suggested. Knows no framework and moves no value."""
