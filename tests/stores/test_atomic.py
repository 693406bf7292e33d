"""Replacing a file in one step, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from stateregistry import errors
from stateregistry.stores import atomic
from stateregistry.stores.atomic import replacing


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    return path


def only(folder, *names):
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_a_new_file_appears_whole(tmp_path):
    path = tmp_path / "x.bin"
    with replacing(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".bin"
        temporary.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    only(tmp_path, "x.bin")


def test_an_existing_file_is_replaced_only_on_request(target):
    with pytest.raises(errors.TargetExistsError, match="overwrite=True"), replacing(target):
        pytest.fail("the work has begun")
    assert target.read_bytes() == b"old"
    with replacing(target, overwrite=True) as temporary:
        temporary.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    only(target.parent, "x.bin")


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3), errors.AbstractError("x")])
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_failure_leaves_what_was_there(tmp_path, error, overwrite):
    path = tmp_path / "x.bin"
    if overwrite:
        path.write_bytes(b"old")
    with pytest.raises(type(error)) as caught, replacing(path, overwrite=overwrite) as temporary:  # noqa: PT012
        temporary.write_bytes(b"half")
        raise error
    assert caught.value is error
    assert (path.read_bytes() == b"old") if overwrite else not path.exists()
    only(tmp_path, *(["x.bin"] if overwrite else []))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_full_disk_is_one_error_and_the_old_file(target, code):
    with pytest.raises(errors.FileAccessError, match="as it was") as caught, replacing(target, overwrite=True):
        raise OSError(code, os.strerror(code))
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value.__cause__, OSError)
    assert os.strerror(code) in str(caught.value)
    assert target.read_bytes() == b"old"
    only(target.parent, "x.bin")


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_failure_of_the_commit_leaves_what_was_there(target, monkeypatch, call):
    def fail(*args, **options):
        raise OSError(errno.EIO, "injected")

    with (  # noqa: PT012
        monkeypatch.context() as patch,
        pytest.raises(errors.FileAccessError, match="injected"),
        replacing(target, overwrite=True) as temporary,
    ):
        temporary.write_bytes(b"new")
        patch.setattr(Path if call == "replace" else os, call, fail)
    assert target.read_bytes() == b"old"
    only(target.parent, "x.bin")


def test_the_content_is_durable_before_the_rename_and_the_rename_after(target, monkeypatch):
    calls = []
    fsync, replace = os.fsync, Path.replace

    def synced(handle):
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def renamed(self, other):
        calls.append("rename")
        return replace(self, other)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    with replacing(target, overwrite=True) as temporary:
        temporary.write_bytes(b"new")
    assert calls == ["file", "rename", "folder"]


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path):
    path = tmp_path / "x.bin"
    with pytest.raises(errors.TargetExistsError), replacing(path) as temporary:  # noqa: PT012
        temporary.write_bytes(b"mine")
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs"
    only(tmp_path, "x.bin")


@pytest.mark.parametrize("appears", [True, False])
def test_a_file_system_without_hard_links_is_served_too(tmp_path, monkeypatch, appears):
    def refuse(*args, **options):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "x.bin"
    with pytest.raises(errors.TargetExistsError) if appears else contextlib.nullcontext(), replacing(path) as temporary:
        temporary.write_bytes(b"mine")
        if appears:
            path.write_bytes(b"theirs")
    assert path.read_bytes() == (b"theirs" if appears else b"mine")
    only(tmp_path, "x.bin")


def test_a_directory_that_needs_no_sync_is_no_failure(target, monkeypatch):
    fsync = os.fsync

    def picky(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "not for directories")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", picky)
    with replacing(target, overwrite=True) as temporary:
        temporary.write_bytes(b"new")
    assert target.read_bytes() == b"new"


# -------------------------------------------------------------------- what is known before the work starts


def refused(path, error, says):
    with pytest.raises(error, match=says), replacing(path, overwrite=True):
        pytest.fail("the work has begun")


def test_a_directory_that_does_not_exist_is_said_first(tmp_path):
    refused(tmp_path / "no" / "x.bin", errors.FileMissingError, "does not exist")


def test_a_file_as_a_directory_is_said_first(target):
    refused(target / "x.bin", errors.FileAccessError, "not a directory|cannot be used")


def test_a_directory_in_the_way_is_not_replaced(tmp_path):
    refused(tmp_path, errors.FileAccessError, "is a directory")


@pytest.mark.parametrize("path", ["/dev/null", "fifo"])
def test_what_is_no_regular_file_is_not_replaced(tmp_path, path):
    os.mkfifo(tmp_path / "fifo")
    refused(tmp_path / path, errors.FileAccessError, "not a regular file")


def test_a_directory_that_cannot_be_written_is_said_first(tmp_path):
    """As another user where this is root, whom no mode stops."""
    folder = tmp_path / "locked"
    folder.mkdir()
    (folder / "x.bin").write_bytes(b"old")
    code = f"""
        import os, sys
        from pathlib import Path
        from stateregistry import errors
        from stateregistry.stores.atomic import replacing
        if os.getuid() == 0:
            os.setuid(65534)
        try:
            with replacing(Path({str(folder / "x.bin")!r}), overwrite=True):
                print("begun")
        except errors.FileAccessError as error:
            print(isinstance(error, OSError), "not writable" in str(error))
    """
    for parent in [folder, *folder.parents][:-1]:
        if parent.stat().st_uid == os.getuid() and parent != folder:
            parent.chmod(0o755)
    folder.chmod(0o555)
    try:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
        )
    finally:
        folder.chmod(0o755)
    assert done.stdout.split() == ["True", "True"], done.stderr
    assert (folder / "x.bin").read_bytes() == b"old"


def test_a_directory_that_cannot_be_looked_at_is_said_first(tmp_path, monkeypatch):
    def refuse(self, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    for call in ("stat", "lstat"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, call, refuse)
            refused(tmp_path / "x.bin", errors.FileAccessError, "Permission denied")


def test_a_directory_that_takes_no_file_is_said_first(tmp_path, monkeypatch):
    """`access` knows nothing of a read-only mount, nor of a quota."""

    def refuse(*args):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    refused(tmp_path / "x.bin", errors.FileAccessError, "Read-only file system")


def test_a_link_that_fails_for_another_reason_is_an_error(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.EIO, "injected")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(errors.FileAccessError, match="injected"), replacing(tmp_path / "x.bin") as temporary:
        temporary.write_bytes(b"new")
    only(tmp_path)


def test_a_rename_that_may_not_survive_is_said_so(target, monkeypatch):
    fsync = os.fsync

    def failing(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EIO, "injected")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(errors.FileAccessError, match="is written"), replacing(target, overwrite=True) as temporary:
        temporary.write_bytes(b"new")
    assert target.read_bytes() == b"new"
    only(target.parent, "x.bin")


# -------------------------------------------------------------------- modes and links


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_mode_of_the_umask(tmp_path, umask, mode):
    old = os.umask(umask)
    try:
        with replacing(tmp_path / "x.bin") as temporary:
            temporary.write_bytes(b"new")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x.bin").stat().st_mode) == mode


def test_a_file_that_is_replaced_keeps_its_mode(target):
    target.chmod(0o640)
    with replacing(target, overwrite=True) as temporary:
        temporary.write_bytes(b"new")
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path, target):
    other = tmp_path / "links"
    other.mkdir()
    link = other / "link.bin"
    link.symlink_to(target)
    with replacing(link, overwrite=True) as temporary:
        assert temporary.parent == target.parent
        temporary.write_bytes(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    only(other, "link.bin")


def test_a_symbolic_link_to_nothing_makes_what_it_points_to(tmp_path):
    link = tmp_path / "link.bin"
    link.symlink_to(tmp_path / "real.bin")
    with replacing(link) as temporary:
        temporary.write_bytes(b"new")
    assert link.is_symlink()
    assert (tmp_path / "real.bin").read_bytes() == b"new"


def test_a_symbolic_link_to_itself_is_refused(tmp_path):
    link = tmp_path / "loop"
    link.symlink_to(link)
    with pytest.raises(errors.FileAccessError), replacing(link, overwrite=True):
        pytest.fail("the work has begun")


def test_a_long_name_leaves_room_for_the_temporary(tmp_path):
    path = tmp_path / ("ü" * 120 + ".safetensors")
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"new"


def test_a_temporary_that_cannot_be_removed_is_named_in_a_note(target, monkeypatch):
    def refuse(self, missing_ok=False):
        raise OSError(errno.EBUSY, "busy")

    with (  # noqa: PT012
        monkeypatch.context() as patch,
        pytest.raises(ValueError, match="x") as caught,
        replacing(target, overwrite=True),
    ):
        patch.setattr(Path, "unlink", refuse)
        raise ValueError("x")
    assert any(".stateregistry-" in note for note in caught.value.__notes__)


# -------------------------------------------------------------------- the process dies


WRITER = """
    import sys
    from pathlib import Path
    from stateregistry.stores.atomic import replacing

    path = Path(sys.argv[1])
    print("ready", flush=True)
    for turn in range(1_000_000):
        with replacing(path, overwrite=True) as temporary:
            with temporary.open("wb") as file:
                for _ in range(64):
                    file.write(bytes([turn % 251]) * 16384)
"""


def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path):
    """SIGKILL at random moments: every time the file is one of those that were written, from end to end."""
    path = tmp_path / "x.bin"
    path.write_bytes(bytes([255]) * (64 * 16384))
    moments = random.Random(7)
    seen = set()
    for _ in range(10):
        writer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(path)], stdout=subprocess.PIPE, text=True
        )
        with writer:
            assert writer.stdout.readline() == "ready\n"
            time.sleep(moments.uniform(0, 0.15))
            writer.send_signal(signal.SIGKILL)
        raw = path.read_bytes()
        assert len(raw) == 64 * 16384
        assert len(set(raw)) == 1
        seen.add(raw[0])
    assert len(seen) > 1, "no writer got as far as a commit: the moments are too early"


def test_the_destination_is_what_replacing_would_use(tmp_path, target):
    assert atomic.destination(target, overwrite=True) == target
    link = tmp_path / "link"
    link.symlink_to(target)
    assert atomic.destination(link, overwrite=True) == target.resolve()
