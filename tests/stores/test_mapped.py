"""One open file: reads that the system cuts short or refuses, and files that change."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from stateregistry import errors
from stateregistry.stores.mapped import MappedFile

RAW = bytes(range(256)) * 40


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(RAW)
    opened = MappedFile(path)
    yield opened
    opened.close()


def test_reads_and_views_have_the_bytes_of_the_file(file):
    target = np.empty((4, 5), np.int16)
    file.copy_into(target, 100)
    assert target.tobytes() == file.read(100, 40) == file.view(100, 40).tobytes() == RAW[100:140]
    assert file.read(0, 0) == b""
    assert file.view(len(RAW), 0).size == 0
    file.copy_into(np.empty((0, 3)), 5)


@pytest.mark.parametrize("step", [1, 7, 4096])
def test_a_read_that_is_cut_short_is_continued(file, monkeypatch, step):
    """A signal or a network share may return fewer bytes than were asked for."""
    preadv, pread = os.preadv, os.pread
    monkeypatch.setattr(os, "preadv", lambda handle, buffers, offset: preadv(handle, [buffers[0][:step]], offset))
    monkeypatch.setattr(os, "pread", lambda handle, count, offset: pread(handle, min(count, step), offset))
    target = np.empty(len(RAW) - 3, np.uint8)
    file.copy_into(target, 3)
    assert target.tobytes() == file.read(3, len(RAW) - 3) == RAW[3:]


def test_a_read_that_fails_is_one_error(file, monkeypatch):
    def fail(*args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(errors.FileAccessError, match="Input/output error"):
        file.copy_into(np.empty(3), 0)
    with pytest.raises(errors.FileAccessError, match="Input/output error"):
        file.read(0, 3)


def test_a_map_that_fails_is_one_error(file, monkeypatch):
    def fail(*args, **options):
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr("mmap.mmap", fail)
    with pytest.raises(errors.FileAccessError, match="No such device"):
        file.view(0, 3)


def test_a_file_that_ends_while_it_is_read_is_one_error(file, monkeypatch):
    monkeypatch.setattr(os, "preadv", lambda *args: 0)
    with pytest.raises(errors.FileFormatError, match="ended after 5 bytes"):
        file.copy_into(np.empty(3), 5)


@pytest.mark.parametrize(("offset", "count"), [(-1, 2), (0, len(RAW) + 1), (len(RAW), 1), (0, -1), (2**70, 1)])
def test_bytes_outside_of_the_file_are_refused(file, offset, count):
    with pytest.raises(errors.FileFormatError, match="outside"):
        file.view(offset, count)
    with pytest.raises(errors.FileFormatError, match="outside"):
        file.read(offset, count)


@pytest.mark.parametrize("size", [0, 10, len(RAW) + 1])
def test_a_file_whose_length_changes_is_refused(file, size):
    view = file.view(0, 4)
    os.truncate(file.path, size)
    for access in (lambda: file.view(0, 1), lambda: file.read(0, 1), lambda: file.copy_into(np.empty(1, np.uint8), 0)):
        with pytest.raises(errors.FileFormatError, match="when it was opened"):
            access()
    os.truncate(file.path, len(RAW))
    del view


def test_a_file_that_is_closed_says_so(file):
    file.close()
    file.close()
    assert file.closed
    with pytest.raises(errors.UnsupportedError, match="closed"):
        file.read(0, 1)


def test_a_file_that_nobody_closes_is_closed_with_its_object(tmp_path):
    (tmp_path / "x").write_bytes(RAW)
    before = len(list(os.scandir("/proc/self/fd")))
    for _ in range(10):
        MappedFile(tmp_path / "x").view(0, 3)
    assert len(list(os.scandir("/proc/self/fd"))) <= before


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, error in [
        (tmp_path / "no", errors.FileMissingError),
        (tmp_path, errors.FileAccessError),
        (tmp_path / "pipe", errors.FileAccessError),
        (tmp_path / "pipe" / "x", errors.FileAccessError),
    ]:
        with pytest.raises(error, match=str(path)):
            MappedFile(path)


def test_a_file_that_may_not_be_read_is_said_so(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(errors.FileAccessError, match="Permission denied"):
        MappedFile(tmp_path / "x")
