"""Adapters, functions and harnesses that are wrong on purpose: what the conformance suite has to find.

`mutants.corpus` has the broken adapters, `mutants.functions` the broken functions over registries, `mutants.liars` the
dishonest harnesses; `tests/` has to be a root of import. Written from the specification and from what frameworks do, not from
the checks. Imports the core, the NumPy reference and the vocabulary of the suite (harness, declaration), never a check.
"""
