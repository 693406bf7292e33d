"""Writes docs/hostile.md: what came of every file of the corpus, by reader and by class of fault.

    python tests/hostile/table.py [--check]

With `--check` the page is compared, not written; figures that depend on the machine (seconds, memory) are left out of that.
Exit status 1: the page is stale, or a file did not end as the corpus asks.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT / "tests") not in sys.path:
    sys.path.insert(0, str(ROOT / "tests"))

from hostile.corpus import READERS, Fault, faults  # noqa: E402  # found by the line above
from hostile.runner import CLOCK, EXTRA_BYTES, SECONDS, Outcome, as_asked, verdicts  # noqa: E402

PAGE = ROOT / "docs" / "hostile.md"
Pair = tuple[Fault, Outcome]
#: The columns of outcomes that must be zero.
BAD = ("accepted", "crash", "hang", "executed")


def count(pairs: Iterable[Pair], verdict: str) -> int:
    """How many ended so; a strange name that is kept as it is counts as kept, not as accepted."""
    found = [(fault, outcome) for fault, outcome in pairs if outcome.verdict == verdict]
    return sum(1 for fault, _ in found if not fault.kept)


HEAD = """\
# Hostile files: what comes of them

A checkpoint comes from a stranger. Every file below is made by code (`tests/hostile/`), opened with `sr.open` in a
process of its own, and every value in it is read and viewed. The process may allocate twice the file and {extra} MiB, has
{seconds:.0f} s of a processor and {clock} s by the clock, and is watched: a call that starts a program, unpickles,
connects, or opens a file outside of the folder is seen, and so is a file that appears in it. Written by
`python tests/hostile/table.py`; a test runs all of it again and compares.

{files} files of {classes} classes.

## By reader

*Refused*: one error of ours that says what is wrong. *Unsafe*: an `UnsafeFileError`, as it would have run code or led out
of its folder. *Opaque*: no array, named with the reason and never read. *Kept*: a strange name, which is data and given as
it is (messages spell what a terminal would act on). The other columns have to be zero. Peak memory is beyond the idle
process, seconds are of a processor; both are the worst of all files, in the run that wrote this page.

| reader | files | classes | refused | unsafe | opaque | kept | accepted | crashed | hung | executed | peak MiB | s |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""
MIDDLE = """
## By class

| class of fault | files | readers | outcome |
| --- | ---: | --- | --- |
"""
TAIL = """
## Limits

What bounds memory and time is in [formats](formats.md#limits): every limit has a name, a default and an argument. Listing
costs about 1 kB of memory for each array, whatever its size, so that `entries` is what bounds it: a file of a million
arrays of one byte is not hostile, is not refused, and takes 0.9 GB to list.
"""


def page(pairs: Sequence[Pair]) -> str:
    """The whole page."""
    classes = len({fault.kind for fault, _ in pairs})
    by_reader = [_row(reader, [pair for pair in pairs if pair[0].reader == reader]) for reader in READERS]
    head = HEAD.format(
        extra=EXTRA_BYTES // 2**20, seconds=SECONDS, clock=CLOCK, files=len(pairs), classes=classes
    )  # fmt: skip
    rows = "\n".join([*by_reader, _row("all", list(pairs)), ""])
    return head + rows + MIDDLE + "\n".join([*_classes(pairs), ""]) + TAIL


def _row(name: str, pairs: list[Pair]) -> str:
    kept = sum(1 for fault, outcome in pairs if fault.kept and outcome.verdict == "accepted")
    good = [count(pairs, verdict) for verdict in ("refused", "unsafe", "opaque")]
    cells = [len(pairs), len({fault.kind for fault, _ in pairs}), *good, kept, *(count(pairs, one) for one in BAD)]
    memory = max(outcome.memory for _, outcome in pairs) / 2**20
    seconds = max(outcome.seconds for _, outcome in pairs)
    return f"| {name} | " + " | ".join(map(str, cells)) + f" | {memory:.0f} | {seconds:.1f} |"


def _classes(pairs: Sequence[Pair]) -> Iterator[str]:
    ordered = sorted(pairs, key=lambda pair: pair[0].kind)
    for kind, them in groupby(ordered, key=lambda pair: pair[0].kind):
        found = list(them)
        readers = [reader for reader in READERS if any(fault.reader == reader for fault, _ in found)]
        ends = Counter("kept" if fault.kept else outcome.verdict for fault, outcome in found)
        told = ", ".join(f"{name} {number}" if len(ends) > 1 else name for name, number in sorted(ends.items()))
        yield f"| {kind} | {len(found)} | {', '.join(readers)} | {told} |"


def steady(text: str) -> list[str]:
    """The lines without what another machine would measure."""
    return [line.rsplit(" | ", 2)[0] if line.count(" | ") == 12 else line for line in text.splitlines()]


def run() -> list[Pair]:
    """Every file of the corpus, and what came of it."""
    them = faults()
    with tempfile.TemporaryDirectory() as room:
        return list(zip(them, verdicts(them, Path(room)), strict=True))


def main(arguments: list[str]) -> int:
    """Run, say what is wrong, write or compare the page."""
    pairs = run()
    wrong = [f"{fault.id}: {problem}" for fault, outcome in pairs if (problem := as_asked(fault, outcome))]
    print(*wrong, sep="\n")
    text = page(pairs)
    if "--check" in arguments:
        stale = not PAGE.exists() or steady(PAGE.read_text(encoding="utf-8")) != steady(text)
        print(f"hostile: {PAGE.relative_to(ROOT)} is {'stale' if stale else 'as it should be'}")
        return 1 if wrong or stale else 0
    PAGE.write_text(text, encoding="utf-8")
    print(f"hostile: {len(pairs)} files, {len(wrong)} not as asked; wrote {PAGE.relative_to(ROOT)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
