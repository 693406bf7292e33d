"""The command lines: one suite behind both, exit codes, files, and a directory where no pytest could run."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import click
import pytest

from stateregistry.cli import main as stateregistry
from stateregistry.cli.conform import conform as click_command
from stateregistry_conformance import __main__ as module
from stateregistry_conformance.report import parse
from stateregistry_conformance.verdict import Status

CHECK = "keys.a_name_with_a_separator_is_escaped"

BROKEN = """
from stateregistry_numpy.registry import MutableRegistry

class Registry(MutableRegistry):
    def __iter__(self):
        return iter(self.native_order)

class Harness(MutableHarness):
    def registry(self, model):
        return Registry(model)

harness = Harness()
"""


def test_the_hostile_directory_is_hostile(hostile):
    done = subprocess.run([sys.executable, "-m", "pytest"], cwd=hostile, capture_output=True, check=False)
    assert done.returncode == 4


@pytest.mark.parametrize("entry", ["stateregistry_conformance", "stateregistry"])
def test_a_conformant_adapter_is_exit_0_from_a_hostile_directory(entry, command, hostile):
    before = sorted(hostile.iterdir())
    words = ["conform", "numpy"] if entry == "stateregistry" else ["numpy"]
    done = command(*words, module=entry)
    assert done.code == 0, done.out + done.err
    assert done.out.startswith("numpy: conforms to specification 0.1: ")
    assert done.err == ""
    assert sorted(hostile.iterdir()) == before, "nothing is left in the directory of the user"


@pytest.mark.parametrize("entry", ["stateregistry_conformance", "stateregistry"])
def test_an_adapter_of_the_current_directory_is_found_and_its_failure_can_be_pasted(
    entry, harness_file, tmp_path, command
):
    harness_file(BROKEN)
    words = ["conform"] if entry == "stateregistry" else []
    done = command(
        *words, "their_harness:harness", "--check", "enumeration.iteration_is_sorted", cwd=tmp_path, module=entry
    )
    assert done.code == 1
    assert "their_harness:harness: DOES NOT conform to the checks chosen: 1 fail" in done.out
    assert "fail: SR-LIST-001 by enumeration.iteration_is_sorted" in done.out
    lines = [line.removeprefix("  | ") for line in done.out.splitlines() if line.startswith("  | ")]
    pasted = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert pasted.stdout.startswith("SR-LIST-001 fail iter: expected")
    (said,) = [line for line in lines if line.startswith("# python -m ")]
    again = command(*said.split()[4:], cwd=tmp_path)
    assert again.out == done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nump"], "no harness 'nump' is installed, did you mean 'numpy'?"),
        (["no_such_module:harness"], "No module named 'no_such_module'"),
        (["numpy", "--check", "keys.no_such_check"], "no such check: keys.no_such_check"),
        (["numpy", "--time-limit", "0"], "the time limit"),
        (["numpy", "--known", "none.toml"], "none.toml"),
        (["numpy", "--report", "nowhere/out.json"], "the directory nowhere does not exist"),
        (["numpy", "--profile", "fast"], "invalid choice: 'fast'"),
        ([], "name one harness"),
        (["numpy", "torch"], "name one harness"),
        (["verify-report", "none.json"], "there is no such file"),
        (["badge", "none.json"], "there is no such file"),
        (["combine", "none.json", "--html", "out.html"], "there is no such file"),
        (["combine", "none.json"], "--html"),
    ],
)
def test_wrong_use_is_exit_2_with_a_sentence_and_no_traceback(words, said, command, hostile):
    done = command(*words)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "Traceback" not in done.err


def test_wrong_use_is_json_where_json_was_asked_for(command):
    for words in (["nump", "--json"], ["verify-report", "none.json", "--json"]):
        done = command(*words)
        assert done.code == 2
        assert done.document["exit"] == 2
        assert done.document["error"]["message"]
    done = command("conform", "nump", "--json", module="stateregistry")
    assert (done.code, done.document["schema"]) == (2, "stateregistry.conform/1")


def test_json_is_the_report(command, tmp_path):
    out = tmp_path / "out.json"
    done = command("numpy", "--check", CHECK, "--json", "--report", str(out))
    assert done.document == json.loads(out.read_text(encoding="utf-8"))
    assert parse(done.out).conformant


def test_a_file_that_is_not_ours_is_not_replaced(command, tmp_path):
    for option in ("--report", "--html"):
        path = tmp_path / "thesis.txt"
        path.write_text("three years of work", encoding="utf-8")
        done = command("numpy", "--check", CHECK, option, str(path))
        assert done.code == 3
        assert "neither a report nor a page nor a badge" in done.err
        assert path.read_text(encoding="utf-8") == "three years of work"


def test_reports_pages_and_badges_are_replaced(command, tmp_path, made):
    report, page, badge = tmp_path / "r.json", tmp_path / "p.html", tmp_path / "b.json"
    full = tmp_path / "full.json"
    full.write_text(json.dumps(made().to_json(), indent=2), encoding="utf-8")
    for _ in range(2):
        assert command("numpy", "--check", CHECK, "--report", str(report), "--html", str(page)).code == 0
        assert command("badge", str(full), "--out", str(badge)).code == 0
    assert parse(report.read_bytes()).header.selected == (CHECK,)
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert json.loads(badge.read_text(encoding="utf-8"))["message"] == "Full"


def test_the_harness_may_print_what_it_likes(harness_file, tmp_path, command):
    harness_file("print('hello from the import')\nharness = MutableHarness()\n")
    done = command("their_harness:harness", "--check", CHECK, cwd=tmp_path)
    assert "hello" not in done.out + done.err
    done = command("their_harness:harness", "--check", CHECK, "--debug", cwd=tmp_path)
    assert "hello from the import" in done.err


def test_names_cannot_speak_to_the_terminal(harness_file, tmp_path, command):
    body = """
    class Harness(MutableHarness):
        def build(self, declaration):
            raise RuntimeError("\\x1b[2J\\x1b]0;owned\\x07 all passed \\u202e")

    harness = Harness()
    """
    import textwrap

    harness_file(textwrap.dedent(body))
    done = command("their_harness:harness", cwd=tmp_path)
    assert done.code == 1
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", done.out)
    assert "\\x1b[2J" in done.out


def test_colour_is_asked_for(command):
    plain = command("numpy", "--check", CHECK)
    assert "\x1b" not in plain.out
    colored = command("numpy", "--check", CHECK, "--color", "always")
    assert "\x1b[32mconforms to\x1b[0m" in colored.out
    assert re.sub(r"\x1b\[\d*m", "", colored.out) == plain.out


def test_both_command_lines_take_the_same_options(capsys):
    with pytest.raises(SystemExit):
        module.main(["--help"])
    ours = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    theirs = {option for one in click_command.params if isinstance(one, click.Option) for option in one.opts}
    # `--table` writes the page of the specification; `--html` is that of `combine`, which has its own help.
    assert ours - {"--help", "--table"} == {option for option in theirs if option.startswith("--")}


def test_every_option_of_the_click_command_reaches_the_suite(monkeypatch, capsys):
    asked = {}

    def suite():
        return lambda terminal, **options: asked.update(options) or 0

    monkeypatch.setattr("stateregistry.cli.conform._suite", suite)
    words = ["conform", "x", "--profile", "full", "--report", "r", "--html", "h", "--known", "k", "--check", "c"]
    assert stateregistry([*words, "--check", "d", "--time-limit", "3"]) == 0
    assert {name: str(value) for name, value in asked.items()} == {
        "name": "x", "profile": "full", "report": "r", "html": "h", "known": "k", "checks": "('c', 'd')",
        "time_limit": "3.0",
    }  # fmt: skip


def test_a_core_without_a_suite_says_so(monkeypatch, capsys):
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: ())
    assert stateregistry(["conform", "numpy"]) == 2
    assert "the conformance suite is not installed" in capsys.readouterr().err


def test_the_core_does_not_import_the_suite_for_other_commands():
    code = (
        "import sys\nfrom stateregistry.cli import main\nmain(['--help'])\n"
        "print([name for name in sys.modules if name.startswith('stateregistry_conformance')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "  conform " in done.stdout


class TestVerifyReport:
    @pytest.fixture
    def written(self, made, tmp_path):
        def write(name: str, report) -> str:
            path = tmp_path / name
            path.write_text(json.dumps(report.to_json()), encoding="utf-8")
            return str(path)

        return write

    def test_a_level_is_exit_0(self, written, made, command):
        done = command("verify-report", written("good.json", made()))
        assert done.code == 0
        assert "good.json: Full 0.1 (dtype.bfloat16, " in done.out

    def test_one_bad_report_among_good_ones_is_exit_1(self, written, made, command, tmp_path):
        bad = tmp_path / "bad.json"
        bad.write_text(json.dumps({**made().to_json(), "conformant": False}), encoding="utf-8")
        done = command("verify-report", written("good.json", made()), str(bad))
        assert done.code == 1
        assert "good.json: Full" in done.out
        assert "bad.json: refused\n  'conformant' is not what follows from the rows" in done.out

    def test_no_level_says_why(self, written, made, command):
        done = command("verify-report", written("none.json", made({"SR-KEY-001": Status.UNTESTED})))
        assert done.code == 1
        assert "none.json: no level\n  SR-KEY-001: untested" in done.out

    def test_as_json(self, written, made, command):
        done = command("verify-report", written("good.json", made()), "--json")
        assert done.document["schema"] == "stateregistry.verify-report/1"
        (row,) = done.document["reports"]
        assert (row["level"], row["adapter"], row["refused"]) == ("Full", "made-up", [])

    def test_a_report_that_nobody_ran_is_found_out_by_running_again(self, written, made, command):
        path = written("made.json", made())
        assert command("verify-report", path).code == 0
        done = command("verify-report", path, "--rerun")
        assert done.code == 1
        assert "it cannot be run again" in done.out

    def test_a_badge_of_another_suite_is_refused(self, written, made, command):
        done = command("badge", written("old.json", made(suite_digest="0" * 64)))
        assert (done.code, done.out) == (2, "")
        assert "another suite" in done.err
