"""Files that lie, by reader and class of fault: a corpus made by code, a runner with limits, and the table of what came of it.

`hostile.corpus` has the faults, one module for each reader; `hostile.runner` opens every file in a process of its own and says
what happened; `hostile.table` writes docs/hostile.md. `tests/` has to be a root of import. A reader of another package joins
by a module with `FAULTS` and a line in `corpus.READERS`.
"""
