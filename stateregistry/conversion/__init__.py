"""Conversion: plan, then move bytes. What a caller asks for is in `api`; what a plan knows of one registry is a `side`.

`rules` are what the user says; `pairing` turns what alignment finds into pairs or questions; `planning` turns pairs into a
checked list of moves; `execution` moves the bytes; `verification` compares what came of it. A `residual` is what a move could
not carry.
"""
