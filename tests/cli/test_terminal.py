"""The terminal: colour, width, encoding, closed pipes and Ctrl-C."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import stateregistry as sr
import stateregistry_numpy
from stateregistry.cli.terminal import dump, plain
from stateregistry.report.blocks import Bar, Column, Notes, Table, Verdict

ESCAPE = "\x1b["


def at_a_terminal(room, *arguments, columns=80, **environment):
    """What a person sees who runs a command line at a terminal of so many columns."""
    return seen_by_a_person(room, ["-m", "stateregistry", *map(str, arguments)], columns, environment)


def seen_by_a_person(room, arguments, columns=80, environment=()):
    parent, child = pty.openpty()
    env = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(columns)} | dict(environment)
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=room, env=env, stdin=child, stdout=child, stderr=child
    ) as running:
        os.close(child)
        seen = b""
        while True:
            try:
                part = os.read(parent, 65536)
            except OSError:  # the other end is closed: the way a pseudo-terminal says end of file
                break
            if not part:
                break
            seen += part
        code = running.wait(timeout=60)
    os.close(parent)
    return code, seen.decode()


def test_a_pipe_gets_no_colour(process, file):
    assert ESCAPE not in process("inspect", file).out


def test_a_terminal_gets_colour(room, file):
    code, seen = at_a_terminal(room, "inspect", file)
    assert code == 0
    assert ESCAPE in seen
    assert "trainable" in seen


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_the_environment_can_refuse_colour(room, file, environment):
    assert ESCAPE not in at_a_terminal(room, "inspect", file, **environment)[1]


def test_the_option_can_refuse_colour(room, file):
    assert ESCAPE not in at_a_terminal(room, "inspect", file, "--color", "never", FORCE_COLOR="1")[1]


@pytest.mark.parametrize("how", [("--color", "always"), ("FORCE_COLOR",)])
def test_colour_can_be_forced_into_a_pipe(process, file, how):
    done = process("inspect", file, *how) if len(how) == 2 else process("inspect", file, FORCE_COLOR="1")
    assert ESCAPE in done.out


def test_the_option_is_stronger_than_the_environment(process, file):
    assert ESCAPE in process("inspect", file, "--color", "always", NO_COLOR="1").out
    assert ESCAPE not in process("inspect", file, "--color", "never", FORCE_COLOR="1").out


def test_a_document_has_no_colour(process, file):
    assert ESCAPE not in process("inspect", file, "--json", FORCE_COLOR="1").out


def test_a_narrow_terminal_folds_a_long_name_and_cuts_nothing(room):
    model = stateregistry_numpy.Module()
    name = "a_very_long_name_of_a_parameter_that_no_terminal_of_forty_columns_can_show_in_one_line"
    model.register_parameter(name, np.ones(2))
    sr.save(model, room / "long.safetensors")
    seen = at_a_terminal(room, "inspect", "long.safetensors", "--all", "--color", "never", columns=60)[1]
    lines = [line.strip() for line in seen.partition("every entry")[2].splitlines()]
    assert name in "".join(lines)
    assert "float64" in seen
    assert max(map(len, seen.splitlines())) <= 60


def test_an_ascii_terminal_gets_ascii(process, room):
    model = stateregistry_numpy.Module()
    for n in range(7):
        model.register_parameter(f"größe{n}", np.ones(2))
    sr.save(model, room / "names.safetensors")
    done = process("inspect", "names.safetensors", "--all", PYTHONIOENCODING="ascii")
    assert done.code == 0, done.err
    assert done.out.isascii()
    assert "gr\\xf6\\xdfe3" in done.out
    assert " ###---" in done.out
    assert "größe3" in process("inspect", "names.safetensors", "--all", PYTHONIOENCODING="utf-8").out


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_error(room, unbuffered):
    model = stateregistry_numpy.Module()
    for n in range(5000):
        model.register_parameter(f"some_name_or_other_{n}", np.ones(1))
    sr.save(model, room / "many.safetensors")
    command = [sys.executable, "-m", "stateregistry", "inspect", "many.safetensors", "--all"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=room, env=os.environ | {"PYTHONUNBUFFERED": unbuffered}, **pipes) as running:
        assert running.stdout.read(1)
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait(timeout=60) == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_full_disk_under_stdout_is_said(room, file, options):
    command = [sys.executable, "-m", "stateregistry", "inspect", str(file), *options]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=room, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: No space left on device")
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_a_closed_stdout_is_no_error(room, file):
    shell = f'"{sys.executable}" -m stateregistry inspect {file} >&-'
    done = subprocess.run(["sh", "-c", shell], cwd=room, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


WORK = """
import sys, time
from stateregistry.cli.progress import Bar
from stateregistry.cli.terminal import Terminal
with Bar(Terminal(), "writing [red]x.pt") as bar:
    for done in range(0, 2_000_001, 200_000):
        bar(done, 2_000_000)
        time.sleep(float(sys.argv[1]))
"""


def test_a_person_who_waits_sees_how_many_bytes_are_done(room):
    seen = seen_by_a_person(room, ["-c", WORK, "0.15"])[1]
    assert "writing [red]x.pt" in seen
    assert "/2.0 MB" in seen


def test_what_is_quick_needs_no_bar(room):
    assert seen_by_a_person(room, ["-c", WORK, "0"])[1] == ""


def test_a_pipe_gets_no_bar(room):
    done = subprocess.run([sys.executable, "-c", WORK, "0.1"], cwd=room, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


SLOW = '''
"""A model whose factory waits until it is interrupted."""
import pathlib, time

def build():
    pathlib.Path("ready").touch()
    time.sleep(60)
'''


def test_an_interrupt_ends_with_130_and_leaves_nothing(room, file):
    (room / "slow.py").write_text(SLOW, encoding="utf-8")
    command = [sys.executable, "-m", "stateregistry", "convert", str(file), "out.safetensors", "--like", "slow:build"]
    with subprocess.Popen(command, cwd=room, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        deadline = time.monotonic() + 60
        while not (room / "ready").exists():
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert err.startswith("error: interrupted")
    assert "Traceback" not in err
    assert not list(room.glob("*out*"))


def test_an_interrupt_in_the_middle_of_writing_leaves_nothing(run, room, file, monkeypatch):
    from stateregistry.cli.progress import Bar as Progress

    seen = []

    def interrupted(self, done, total):
        seen.append((done, total))
        if len(seen) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "__call__", interrupted)
    before = sorted(path.name for path in room.iterdir())
    done = run("convert", file, "out.safetensors", "--like", "factories:build")
    assert done.code == 130
    assert len(seen) == 4
    assert 0 < seen[-1][0] < seen[-1][1]
    assert sorted(path.name for path in room.iterdir() if path.name != "__pycache__") == [
        name for name in before if name != "__pycache__"
    ]


def test_plain_text_aligns_and_draws():
    blocks = (
        Verdict("good", "news"),
        Table("t", (Column("key"), Column("n", right=True), Column("")), (("a", "1", Bar(0.5)), ("bbb", "10", Bar(0)))),
        Notes("look at", ("this",)),
    )
    assert plain(blocks, unicode=False).splitlines() == [
        "good: news",
        "",
        "  t",
        "  key   n",
        "  a     1  ############------------",
        "  bbb  10  ------------------------",
        "",
        "  look at",
        "  ! this",
    ]


def test_a_table_with_a_wrong_row_is_refused():
    with pytest.raises(ValueError, match="has not 1 cells"):
        Table("t", (Column("a"),), (("1", "2"),))


def test_a_document_is_strict_json():
    text = dump({"b": float("nan"), "a": float("inf"), "c": (1, {"x"}), "ü": None})
    assert (
        text
        == '{\n  "a": "inf",\n  "b": "nan",\n  "c": [\n    1,\n    [\n      "x"\n    ]\n  ],\n  "\\u00fc": null\n}\n'
    )


@pytest.mark.parametrize("line", [["inspect", "{}"], ["inspect", "{}", "--stats", "--layers"], ["diff", "{}", "{}"],
                                  ["convert", "{}", "x.npz", "--to", "numpy", "--dry-run"], ["adapters"]])  # fmt: skip
def test_forty_columns_are_enough(room, file, line):
    seen = at_a_terminal(room, *(part.format(file) for part in line), "--color", "never", columns=40)[1]
    assert "Traceback" not in seen
    assert max(len(text.rstrip("\r")) for text in seen.split("\n")) <= 40
    # Names are whole, whatever has no room beside them.
    assert line[0] in {"adapters", "diff"} or "block" in seen
    assert "float3," not in seen
    assert line[0] != "inspect" or "elements" in seen


@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "big.safetensors", "--stats"],
        ["inspect", "big.safetensors", "--html", "p.html"],
        ["diff", "big.safetensors", "big2.safetensors", "--html", "p.html"],
    ],
)
def test_an_interrupt_while_values_are_read_leaves_nothing(run, room, command, monkeypatch):
    for name in ("big", "big2"):
        sr.save({f"w{n}": np.ones(3) for n in range(20)}, room / f"{name}.safetensors")
    from stateregistry.cli.progress import Bar as Progress

    calls = []

    def interrupted(self, done, total):
        calls.append(done)
        if len(calls) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "__call__", interrupted)
    done = run(*command)
    assert (done.code, done.out) == (130, "")
    assert done.err.startswith("error: interrupted")
    assert {path.name for path in room.iterdir()} <= {
        "big.safetensors",
        "big2.safetensors",
        "factories.py",
        "__pycache__",
    }


def test_pages_and_rich_are_loaded_only_where_they_are_needed(room, file):
    code = (
        "import sys; from stateregistry.cli import main; code = main({!r});"
        "heavy = {{'rich', 'stateregistry.pages.markup', 'stateregistry.pages.treemap', 'torch', 'jax'}} & set(sys.modules);"
        "sys.exit(f'imports {{heavy}}' if heavy else code)"
    )
    for arguments in (["--help"], ["inspect", "--help"], ["inspect", str(file)], ["diff", str(file), str(file)]):
        done = subprocess.run(
            [sys.executable, "-c", code.format(arguments)], cwd=room, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
