"""A distribution that we never heard of comes in, passes the suite, and is told by number what is wrong when it breaks.

`toybox/` is built and installed as a stranger would do it, and run from a directory that is neither theirs nor ours.
Each breakage is an edit of one hook, as a slip of the hand would make it.
"""

from __future__ import annotations

import ast
import shutil
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from stateregistry.registry import StateRegistry

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = "toybox_stateregistry/registry.py"
#: Hooks that no requirement of the suite is about: what is wrong with a layer shows in a conversion.
OF_LAYERS = {"_layers"}


@dataclass(frozen=True, slots=True)
class Breakage:
    """One slip: the hook, the requirement that it breaks, and the edit."""

    hook: str
    requirement: str
    what: str
    old: str
    new: str


def added(text: str) -> str:
    """A method for the class, before its first helper."""
    return textwrap.indent(textwrap.dedent(text).strip(), "    ") + "\n\n    def _names("


HELPER = "    def _names("
LENT = "return np.ndarray(slot.shape, slot.dtype, buffer=slot.data)"
WRITTEN = "            self._slot(key).data[:] = data\n"
LISTED = "{min(names): entry_of(slot) for slot, names in self._names().items()}"
ALIASES = "{name: min(names) for names in groups for name in names if name != min(names)}"

BREAKAGES = (
    Breakage(
        "_entries", "SR-LIST-003", "buffers are lost",
        LISTED, LISTED.replace(".items()}", ".items() if isinstance(slot, Weight)}"),
    ),
    Breakage(
        "_entries", "SR-LIST-002", "a tied slot is listed under each of its names",
        LISTED, "{name: entry_of(slot) for slot, names in self._names().items() for name in names}",
    ),
    Breakage(
        "_entries", "SR-LIST-012", "the box is walked once and remembered",
        "        names: dict[Slot, list[str]] = {}\n",
        "        if hasattr(self, '_walked'):\n            return self._walked\n        names = self._walked = {}\n",
    ),
    Breakage(
        "_entries", "SR-KEY-001", "names are joined by hand",
        "append(keys.join(*path))", 'append("/".join(path))',
    ),
    Breakage("_entries", "SR-KIND-001", "everything is a parameter", "weight = isinstance(slot, Weight)", "weight = True"),
    Breakage(
        "_entries", "SR-KIND-003", "counters are trainable", 'weight and slot.dtype.startswith("float")', "weight"
    ),
    Breakage("_entries", "SR-SNAP-001", "what is not kept is saved", "slot.kept if isinstance(slot, Stat) else True", "True"),
    Breakage("_entries", "SR-READ-001", "a scalar is listed as a vector of one", "slot.shape,\n", "slot.shape or (1,),\n"),
    Breakage("_aliases", "SR-ALIAS-002", "no alias is told", ALIASES, "{}"),
    Breakage(
        "_aliases", "SR-ALIAS-002", "every name is an alias", " if name != min(names)}", "}"
    ),
    Breakage("_read", "SR-READ-004", "the rows are taken for columns", "buffer=slot.data)", 'buffer=slot.data, order="F")'),
    Breakage(
        "_read", "SR-READ-004", "what is no number is cleaned away",
        LENT, LENT.replace("np.nd", "np.nan_to_num(np.nd") + ")",
    ),
    Breakage(
        "_read", "SR-LIST-011", "what was read once is remembered",
        LENT, f"known = vars(self).setdefault('_seen', {{}})\n        {LENT.replace('return', 'new =')}\n"
        "        return known.setdefault(key, new.copy())",
    ),
    Breakage(
        "_stage", "SR-DTYPE-008", "everything passes through float32",
        "value.tobytes()", 'value.astype("float32").astype(value.dtype).tobytes()',
    ),
    Breakage("_stage", "SR-WRITE-001", "columns are written as rows", "value.tobytes()", 'value.tobytes("F")'),
    Breakage(
        "_stage", "SR-ATOM-005", "the value is written at once",
        "        return value.tobytes()\n",
        "        self._slot(key).data[:] = value.tobytes()\n        return value.tobytes()\n",
    ),
    Breakage("_commit", "SR-WRITE-001", "one value is forgotten", "in staged.items():", "in list(staged.items())[1:]:"),
    Breakage(
        "_commit", "SR-WRITE-002", "a new slot takes the place of the old one",
        WRITTEN,
        """\
            old = self._slot(key)
            box = self._box
            for step in keys.split(key)[:-1]:
                box = vars(box)[step]
            setattr(box, keys.split(key)[-1], type(old)(old.shape, old.dtype, data))
""",
    ),
    Breakage(
        "_commit", "SR-WRITE-002", "another registry is returned",
        "        return self\n\n    def _layers", "        return type(self)(self._box)\n\n    def _layers",
    ),
    Breakage(
        "_commit", "SR-ATOM-005", "a failure is swallowed",
        WRITTEN, "            try:\n    " + WRITTEN + "            except TypeError:\n                pass\n",
    ),
    Breakage(
        "native_order", "SR-LIST-007", "aliases stand in the native order", HELPER,
        added("@property\ndef native_order(self):\n    return tuple(keys.join(*path) for path, _ in slots(self._box))"),
    ),
    Breakage(
        "_commit_trainable", "SR-WRITE-015", "a flag is ignored", HELPER,
        added("def _commit_trainable(self, mask):\n    return self"),
    ),
    Breakage("unwrap", "SR-WRITE-004", "a copy is handed out", "return self._box\n\n",
             "return __import__('copy').deepcopy(self._box)\n\n"),
    Breakage("in_place", "SR-WRITE-003", "writes in place are called functional", "in_place = True", "in_place = False"),
)  # fmt: skip


def test_the_suite_passes_from_a_directory_that_is_not_ours(conform, site):
    outcome = conform(site)
    assert outcome.code == 0, outcome.text
    assert outcome.explained == outcome.named("fail") == outcome.named("error") == outcome.named("untested") == set()
    assert {breakage.requirement for breakage in BREAKAGES} - outcome.named("pass") == {"SR-WRITE-003"}
    assert len(outcome.named("pass")) > 80


def test_that_directory_is_hostile_to_pytest(python, site):
    """Else the test above would show nothing."""
    assert python(site, "-m", "pytest").code == 4  # a usage error


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda b: f"{b.hook.strip('_')}: {b.what}")
def test_a_broken_hook_is_named_by_the_requirement(breakage, conform, site, tmp_path):
    broken = tmp_path / "site"
    shutil.copytree(site, broken)
    text = (broken / REGISTRY).read_text(encoding="utf-8")
    assert text.count(breakage.old) == 1, "the edit must have one place"
    (broken / REGISTRY).write_text(text.replace(breakage.old, breakage.new), encoding="utf-8")
    outcome = conform(broken)
    assert outcome.code == 1, outcome.text
    assert breakage.requirement in outcome.named("fail"), outcome.text
    assert breakage.requirement in outcome.explained, outcome.text
    assert outcome.named("error") == set(), "the harness is not to blame"


def test_every_hook_of_the_adapter_is_broken_once(toybox):
    tree = ast.parse((toybox / REGISTRY).read_text(encoding="utf-8"))
    methods = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    hooks = {name for name in methods if name in vars(StateRegistry) and name != "__init__"}
    assert hooks >= {"_entries", "_read", "_stage", "_commit", "_aliases", "_layers", "unwrap"}
    assert hooks - {breakage.hook for breakage in BREAKAGES} == OF_LAYERS


def test_a_model_converts_to_the_reference_and_back_bit_for_bit(python, site, tmp_path):
    outcome = python(site, str(Path(__file__).with_name("round_trip.py")), cwd=tmp_path)
    assert outcome.code == 0, outcome.text


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("dialect.py", '"in out"', '"out in"', "axes: deep/first: axis pattern 'out'"),
        ("registry.py", "if isinstance(box, Affine)]", "if isinstance(box, Affine) and not path]", "'body/matrix'"),
        (
            "registry.py",
            "for path, box in found)",
            "for path, box in {box: (path, box) for path, box in found}.values())",
            "that are not tied",
        ),
    ],
    ids=["the axes of the table are exchanged", "inner layers are not found", "a shared layer is found once"],
)
def test_a_wrong_table_of_layers_fails_the_round_trip(file, old, new, told, python, site, tmp_path):
    broken = tmp_path / "site"
    shutil.copytree(site, broken)
    path = broken / "toybox_stateregistry" / file
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    outcome = python(broken, str(Path(__file__).with_name("round_trip.py")), cwd=tmp_path)
    assert outcome.code == 1, outcome.text
    assert told in outcome.text


def test_the_adapter_is_found_without_importing_its_framework(python, site):
    code = """
        import sys
        import stateregistry as sr
        from stateregistry import plugins
        (found,) = [found for found in plugins.discover(plugins.ADAPTERS) if found.name == "toybox"]
        assert (found.distribution, found.error) == ("toybox", None), found
        assert "toybox" not in sys.modules
        try:
            sr.of(object())
        except sr.StateError as error:
            assert "pip install toybox" in str(error), error
        assert "toybox" not in sys.modules
        import toybox
        assert sr.of(toybox.Box()).adapter == "toybox"
        for wrong, hint in ((toybox.Weight((2,)), "put it into a toybox.Box"), (3, "")):
            try:
                sr.of(wrong, adapter="toybox")
            except sr.errors.AdapterError as error:
                assert hint in str(error), error
            else:
                raise SystemExit(f"{wrong!r} was accepted")
    """
    outcome = python(site, "-c", textwrap.dedent(code))
    assert outcome.code == 0, outcome.text


def knowing(root: Path, name: str) -> list[str]:
    """The files of ours, tests and pages apart, in which a name occurs."""
    files = [
        path for folder in ("stateregistry", "adapters", "conformance_tests") for path in (root / folder).rglob("*")
    ]
    files += [root / name for name in ("pyproject.toml", "constraints.txt", "requirements-dev.txt")]
    texts = (path for path in files if path.suffix in {".py", ".json", ".toml", ".txt", ".html", ".js", ".css"})
    return [
        str(path.relative_to(root))
        for path in texts
        if path.is_file() and name in path.read_text(encoding="utf-8").lower()
    ]


def test_no_line_of_ours_knows_its_name():
    assert knowing(ROOT, "toybox") == []
    assert "stateregistry/registry.py" in knowing(ROOT, "stateregistry")


def test_the_guard_can_fail(tmp_path):
    (tmp_path / "stateregistry").mkdir()
    (tmp_path / "stateregistry" / "plugins.py").write_text("FAVOURITES = ['Toybox']\n", encoding="utf-8")
    assert knowing(tmp_path, "toybox") == ["stateregistry/plugins.py"]
