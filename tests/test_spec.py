"""The specification and its machine-readable twin say the same, word for word.

`problems` reads the normative text and the twin and names everything that is wrong with either; the spec is
right when it finds nothing. The second half of the file damages both in every way that matters and shows that
`problems` sees it.
Reads the two files from the checkout; imports nothing of the project but the errors that the text lists.
"""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from stateregistry import errors

ROOT = Path(__file__).resolve().parent.parent
SPECS = ROOT / "docs" / "spec"
TWINS = ROOT / "conformance_tests" / "stateregistry_conformance" / "requirements"
VERSIONS = ("0.1",)

LEVELS = ("MUST NOT", "MUST", "SHOULD", "MAY")  # the longer one first: it contains the other
FIELDS = {"id", "level", "text", "since", "capability", "chapter"}
#: The chapter of each id prefix, in the order of the text.
CHAPTERS = {
    "KEY": "keys",
    "KIND": "kinds",
    "LIST": "enumeration",
    "READ": "reading",
    "WRITE": "writing",
    "ATOM": "atomicity",
    "LOAD": "loading",
    "DTYPE": "dtypes",
    "ALIAS": "aliases",
    "SNAP": "snapshots",
    "CONV": "conversion",
    "ERR": "errors",
    "LAYER": "layers",
}

_SENTENCE = re.compile(r"\*\*(SR-[A-Z]+-\d{3})\*\* \((MUST NOT|MUST|SHOULD|MAY)(?:, `([a-z0-9_.]+)`)?\) (\S.*[.])")
_WORD = re.compile(r"\b(MUST NOT|MUST|SHALL NOT|SHALL|SHOULD NOT|SHOULD|MAY|REQUIRED|RECOMMENDED|OPTIONAL)\b")
_ID = re.compile(r"SR-[A-Z]+-\d{3}")
_CAPABILITY_ROW = re.compile(r"\| `([a-z0-9_.]+)` \| ")
_ERROR_ROW = re.compile(r"\| `([A-Z]\w+)`(, a `MismatchError`)? \| (`\w+`(?: and `\w+`)*) \| \S")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One normative sentence as the text has it."""

    id: str
    level: str
    text: str
    capability: str | None
    chapter: str


def spec_text(version: str) -> str:
    return (SPECS / f"{version}.md").read_text(encoding="utf-8")


def twin_text(version: str) -> str:
    return (TWINS / f"{version}.json").read_text(encoding="utf-8")


def chapters(markdown: str) -> list[tuple[str, list[str]]]:
    """The lines of the text by the title of their chapter."""
    found: list[tuple[str, list[str]]] = [("", [])]
    for line in markdown.splitlines():
        heading = re.fullmatch(r"## \d+\. (.+)", line)
        if heading:
            found.append((heading[1], []))
        else:
            found[-1][1].append(line)
    return found


def chapter_of(requirement_id: str) -> str:
    return CHAPTERS.get(requirement_id.split("-")[1], "unknown")


def capabilities(markdown: str) -> list[str]:
    """The capabilities of the table that describes them: other chapters have tables of other names."""
    lines = [line for title, lines in chapters(markdown) if title == "Conventions" for line in lines]
    return [row[1] for line in lines if (row := _CAPABILITY_ROW.match(line))]


def parse(markdown: str) -> tuple[list[Requirement], list[str]]:
    """Every normative sentence in the order of the text, and what is wrong with their form."""
    found: list[Requirement] = []
    wrong: list[str] = []
    for title, lines in chapters(markdown):
        prefixes: set[str] = set()
        for number, line in enumerate(lines):
            if "**SR-" not in line:
                stray = _WORD.search(line)
                if stray and title != "Conventions":
                    wrong.append(f"{title}: {stray[1]} outside of a numbered sentence: {line}")
                if line.startswith("*Why:*") and "**SR-" not in lines[number - 1]:
                    wrong.append(f"{title}: a rationale of nothing: {line}")
                continue
            sentence = _SENTENCE.fullmatch(line)
            if sentence is None:
                wrong.append(f"{title}: not the form of a normative sentence: {line}")
                continue
            requirement = Requirement(sentence[1], sentence[2], sentence[4], sentence[3], chapter_of(sentence[1]))
            found.append(requirement)
            prefixes.add(requirement.id.split("-")[1])
            if number == 0 or lines[number - 1] != f'<a id="{requirement.id}"></a>':
                wrong.append(f"{requirement.id}: no anchor of this id on the line before it")
            if number + 1 == len(lines) or not re.fullmatch(r"\*Why:\* \S.{19,}", lines[number + 1]):
                wrong.append(f"{requirement.id}: no rationale on the line after it")
            if {word[1] for word in _WORD.finditer(requirement.text)} != {requirement.level}:
                wrong.append(f"{requirement.id}: the sentence does not say {requirement.level}, and nothing but it")
        if len(prefixes) > 1:
            wrong.append(f"{title}: ids of more than one chapter: {sorted(prefixes)}")
    return found, wrong


def order_problems(found: list[Requirement]) -> list[str]:
    """Ids are unique, stand in the order of their numbers, and chapters in the order of the text."""
    wrong = []
    if len({requirement.id for requirement in found}) != len(found):
        wrong.append("an id is used twice")
    places = [(list(CHAPTERS).index(r.id.split("-")[1]) if r.chapter != "unknown" else -1, r.id) for r in found]
    if any(place < 0 for place, _ in places):
        wrong.append("an id has a prefix of no chapter")
    if places != sorted(places):
        wrong.append("ids are not in order")
    return wrong


def problems(markdown: str, twin: str) -> list[str]:
    """Everything that is wrong with a version of the specification and its twin."""
    found, wrong = parse(markdown)
    wrong += order_problems(found)
    known = {requirement.id for requirement in found}
    wrong += [f"{name}: a reference to nothing" for name in _ID.findall(markdown) if name not in known]
    listed = capabilities(markdown)
    if len(set(listed)) != len(listed):
        wrong.append("a capability is described twice")
    named = {requirement.capability for requirement in found if requirement.capability is not None}
    wrong += [f"{name}: a capability that is not described" for name in sorted(named - set(listed))]
    wrong += [f"{name}: a capability that no requirement names" for name in sorted(set(listed) - named)]

    body = json.loads(twin)
    version = re.search(r"^# stateregistry specification, version (\S+)$", markdown, re.MULTILINE)
    if set(body) != {"spec", "requirements"} or version is None or body["spec"] != version[1]:
        wrong.append("the twin is not of the version of the text")
    rows = body["requirements"]
    wrong += [f"{row.get('id')}: fields {sorted(row)}" for row in rows if set(row) != FIELDS]
    wrong += [f"{row.get('id')}: since {row.get('since')!r}" for row in rows if row.get("since") not in VERSIONS]
    if [row["id"] for row in rows] != [requirement.id for requirement in found]:
        wrong.append("the twin does not have the same ids in the same order")
    twins = {row["id"]: row for row in rows}
    for requirement in found:
        for name in ("level", "text", "capability", "chapter"):
            if requirement.id in twins and twins[requirement.id].get(name) != getattr(requirement, name):
                wrong.append(f"{requirement.id}: {name} differs from the twin")
    return wrong


@pytest.mark.parametrize("version", VERSIONS)
def test_the_specification_and_its_twin_say_the_same(version: str) -> None:
    assert problems(spec_text(version), twin_text(version)) == []


def test_every_version_has_a_text_and_a_twin() -> None:
    assert tuple(sorted(path.stem for path in SPECS.glob("[0-9]*.md"))) == VERSIONS
    assert tuple(sorted(path.stem for path in TWINS.glob("*.json"))) == VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_every_chapter_and_every_level_has_requirements(version: str) -> None:
    found, _ = parse(spec_text(version))
    assert {requirement.chapter for requirement in found} == set(CHAPTERS.values())
    assert {requirement.level for requirement in found} == set(LEVELS)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_twin_is_written_as_the_project_writes_json(version: str) -> None:
    text = twin_text(version)
    assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_errors_of_the_specification_are_the_errors_of_the_code(version: str) -> None:
    rows = [row for line in spec_text(version).splitlines() if (row := _ERROR_ROW.match(line))]
    assert len(rows) == 18
    named = set(re.findall(r"`([A-Z]\w+Error)`", spec_text(version)))
    builtin = {name for name in named if hasattr(builtins, name)}
    assert named - builtin == {row[1] for row in rows}, "an error is named in the text and not in the table"
    for row in rows:
        cls = getattr(errors, row[1])
        assert issubclass(cls, errors.StateError), row[1]
        assert issubclass(cls, errors.MismatchError) or row[2] is None, row[1]
        for name in re.findall(r"`(\w+)`", row[3]):
            assert issubclass(cls, getattr(builtins, name)), (row[1], name)


# ------------------------------------------------------------------ the comparison can fail


def twin_with(text: str, change: Callable[[list[dict[str, object]]], object]) -> str:
    body = json.loads(text)
    change(body["requirements"])
    return json.dumps(body)


_READ = "**SR-READ-003** (MUST) An array from `read` MUST be independent of the model:"

TEXT_DAMAGE = {
    "a word of a sentence": (_READ, _READ.replace("independent", "dependent"), "text differs"),
    "a full stop": (
        "later writes to the model do not change it.\n",
        "later writes to the model do not change it\n",
        "form",
    ),
    "the level in brackets": (_READ, _READ.replace("(MUST)", "(SHOULD)"), "level differs"),
    "the level in the sentence": (_READ, _READ.replace("MUST be", "SHOULD be"), "does not say MUST"),
    "a negation": (_READ, _READ.replace("MUST be", "MUST NOT be"), "does not say MUST"),
    "no level in the sentence": (_READ, _READ.replace("MUST be", "is"), "does not say MUST"),
    "a second level": (_READ, _READ.replace("MUST be", "MUST and SHOULD be"), "does not say MUST"),
    "a capability added": (_READ, _READ.replace("(MUST)", "(MUST, `rng`)"), "capability differs"),
    "a capability taken": ("**SR-KIND-009** (MUST, `rng`)", "**SR-KIND-009** (MUST)", "capability differs"),
    "an unknown capability": (
        "**SR-KIND-009** (MUST, `rng`)",
        "**SR-KIND-009** (MUST, `random`)",
        "not described",
    ),
    "an unused capability": ("| `empty` |", "| `emptyish` |", "no requirement names"),
    "an id reused": ("**SR-READ-003**", "**SR-READ-002**", "an id is used twice"),
    "an id out of order": ("**SR-READ-003**", "**SR-READ-099**", "ids are not in order"),
    "an id of another chapter": ("**SR-READ-003**", "**SR-WRITE-003**", "ids of more than one chapter"),
    "an id of no chapter": ("**SR-READ-003**", "**SR-REED-003**", "prefix of no chapter"),
    "an id of two digits": ("**SR-READ-003**", "**SR-READ-03**", "form"),
    "a sentence that is not bold": ("**SR-READ-003**", "SR-READ-003", "same ids"),
    "an anchor of another id": (
        '<a id="SR-READ-003"></a>\n',
        '<a id="SR-READ-004"></a>\n',
        "SR-READ-003: no anchor",
    ),
    "an anchor lost": ('<a id="SR-READ-003"></a>\n', "", "no anchor"),
    "a rationale lost": (
        "*Why:* torch's `state_dict` and NNX's `state` return",
        "Torch and NNX return",
        "no rationale",
    ),
    "a rationale without words": (
        "*Why:* torch's `state_dict` and NNX's `state` return the live memory and the live variables.",
        "*Why:* because.",
        "no rationale",
    ),
    "a normative note": (
        "*Note.* Hyper-parameters are",
        "*Note.* Hyper-parameters MUST be",
        "outside of a numbered",
    ),
    "a dangling reference": (
        "dtypes of SR-DTYPE-001 |",
        "dtypes of SR-DTYPE-901 |",
        "a reference to nothing",
    ),
    "another version": ("specification, version 0.1", "specification, version 0.2", "version of the text"),
}


@pytest.mark.parametrize("damage", TEXT_DAMAGE)
def test_damage_to_the_text_is_seen(damage: str) -> None:
    old, new, expected = TEXT_DAMAGE[damage]
    text = spec_text("0.1")
    at = text.index("## 7. Reading") if text.count(old) > 1 else 0
    damaged = text[:at] + text[at:].replace(old, new, 1)
    assert damaged != text
    assert re.search(expected, "\n".join(problems(damaged, twin_text("0.1"))))


TWIN_DAMAGE: dict[str, tuple[Callable[[list[dict[str, object]]], object], str]] = {
    "a word": (lambda rows: rows[5].update(text=str(rows[5]["text"]) + " "), "text differs"),
    "a level": (lambda rows: rows[5].update(level="MAY"), "level differs"),
    "a capability": (lambda rows: rows[5].update(capability="ties"), "capability differs"),
    "a chapter": (lambda rows: rows[5].update(chapter="reading"), "chapter differs"),
    "a version": (lambda rows: rows[5].update(since="9.9"), "since '9.9'"),
    "a row lost": (lambda rows: rows.pop(5), "same ids in the same order"),
    "a row twice": (lambda rows: rows.append(rows[5]), "same ids in the same order"),
    "two rows exchanged": (lambda rows: rows.insert(0, rows.pop(1)), "same ids in the same order"),
    "a field lost": (lambda rows: rows[5].pop("capability"), "fields"),
    "a field more": (lambda rows: rows[5].update(excluded="why not"), "fields"),
}


@pytest.mark.parametrize("damage", TWIN_DAMAGE)
def test_damage_to_the_twin_is_seen(damage: str) -> None:
    change, expected = TWIN_DAMAGE[damage]
    damaged = twin_with(twin_text("0.1"), change)
    assert re.search(expected, "\n".join(problems(spec_text("0.1"), damaged)))


def test_an_undamaged_twin_survives_being_rewritten() -> None:
    assert problems(spec_text("0.1"), twin_with(twin_text("0.1"), list)) == []


# ------------------------------------------------------------------ the decisions

DECISIONS = ROOT / "docs" / "decisions"
#: The draft requirements, by letter and highest number: 69 of them.
DRAFTS = {"N": 6, "K": 8, "E": 6, "R": 6, "W": 11, "A": 4, "S": 5, "D": 4, "L": 7, "P": 5, "C": 5, "X": 2}


def test_every_draft_and_every_requirement_is_accounted_for() -> None:
    note = (DECISIONS / "0001-drafts-to-requirements.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([A-Z]\d+) \| ", note, re.MULTILINE)
    assert rows == [f"{letter}{number}" for letter, last in DRAFTS.items() for number in range(1, last + 1)]
    assert len(rows) == 69
    # The drafts were about state; the chapter on layers was written later.
    found = [requirement for requirement in parse(spec_text("0.1"))[0] if requirement.chapter != "layers"]
    assert set(_ID.findall(note)) == {requirement.id for requirement in found}
    assert re.search(rf"\bis {len(found)}\s+sentences\b", note), f"the note does not count {len(found)} sentences"


def test_decisions_name_only_requirements_that_exist_and_are_all_listed() -> None:
    known = {requirement.id for version in VERSIONS for requirement in parse(spec_text(version))[0]}
    index = (DECISIONS / "README.md").read_text(encoding="utf-8")
    pages = sorted(DECISIONS.glob("[0-9]*.md"))
    assert pages
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert set(_ID.findall(text)) <= known, page.name
        assert text.startswith(f"# {page.name[:4]}. "), page.name
        for part in ("## Context", "## Choice", "## Consequence"):
            assert part in text, (page.name, part)
    assert re.findall(r"\((\d{4}-[a-z0-9-]+\.md)\)", index) == [page.name for page in pages]
