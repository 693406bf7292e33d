"""URLs: read by ranges and never as a whole for a header, written whole or not at all, whatever the server is."""

from __future__ import annotations

import http.server
import os
import re
import subprocess
import sys
import threading

import fsspec
import numpy as np
import pytest

import stateregistry as sr
from stateregistry import errors
from stateregistry.entry import Entry, Kind
from stateregistry.stores.url import RemotePath

FORMATS = ["safetensors", "npz", "msgpack", "pt", "dcp"]
BIG = (256, 256)


@pytest.fixture
def state(bits, specimen):
    def make(seed=0, shape=(64, 64)):
        arrays = {f"layer{n}/w": bits("float32", shape, seed + n) for n in range(4)} | {
            "layer0/n": bits("bfloat16", (3,), seed)
        }
        entries = {"layer0/n": Entry(Kind.BUFFER, (3,), "bfloat16", tag="mine")}
        return specimen(arrays, entries, dialect="numpy")

    return make


def content(source):
    return {key: (source[key].dtype, source[key].kind, source.read(key).tobytes()) for key in source}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves files with parts, or without; counts what it sends."""

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        server = self.server
        path = server.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        whole = path.read_bytes()
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = 0, len(whole) - 1
        if found and server.ranges:
            first, last = int(found[1]), min(int(found[2] or last), last)
        self.send_response(206 if found and server.ranges else 200)
        if server.lengths:
            self.send_header("Content-Length", str(last - first + 1))
        if server.ranges:
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(whole)}")
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        self.end_headers()
        try:
            for at in range(first, last + 1 if body else first, 1 << 16):
                server.sent += self.wfile.write(whole[at : min(at + (1 << 16), last + 1)])
        except ConnectionError:
            pass  # who has asked for a part has hung up


@pytest.fixture
def web(tmp_path):
    """A server over the directory `web`; `ranges` and `lengths` say whether it knows parts and tells lengths."""
    folder = tmp_path / "web"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.folder, server.ranges, server.lengths, server.sent = folder, True, True, 0
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


# ------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_goes_to_a_url_and_comes_back(bucket, state, suffix):
    source = state()
    made = sr.save(source, f"{bucket}/run/x.{suffix}")
    assert str(made) == f"{bucket}/run/x.{suffix}"
    with sr.open(f"{bucket}/run/x.{suffix}", verify=True) as ckpt:
        assert content(ckpt) == content(source)
        assert ckpt.view("layer1/w").tobytes() == source.read("layer1/w").tobytes()
        assert not ckpt.view("layer1/w").flags.writeable
        assert ckpt.damaged() == {}


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "pt"])
def test_a_header_is_read_without_the_values_and_a_value_without_the_others(web, specimen, bits, suffix):
    arrays = {f"layer{n}/w": bits("float32", (512, 512), n) for n in range(8)}
    path = sr.save(specimen(arrays, dialect="numpy"), web.folder / f"x.{suffix}")
    size = path.stat().st_size
    with sr.open(f"{web.url}/x.{suffix}") as ckpt:
        assert len(ckpt) == 8
        assert web.sent < size // 8
        before = web.sent
        assert ckpt.read("layer3/w").tobytes() == arrays["layer3/w"].tobytes()
        assert web.sent - before < 2 * arrays["layer3/w"].nbytes


def test_files_of_keras_and_gguf_are_read_by_ranges_too(web, bits):
    import gguf
    import h5py

    value = bits("float32", (1024, 1024))
    with h5py.File(web.folder / "x.weights.h5", "w") as file:
        file["layers/a/vars/0"] = value
        file["layers/b/vars/0"] = value
    writer = gguf.GGUFWriter(web.folder / "x.gguf", "llama")
    writer.add_tensor("a.weight", value)
    writer.add_tensor("b.weight", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for name, key in (("x.weights.h5", "layers/a/vars/0"), ("x.gguf", "a/weight")):
        before = web.sent
        with sr.open(f"{web.url}/{name}") as ckpt:
            assert ckpt.read(key).tobytes() == value.tobytes()
            assert web.sent - before < 1.5 * value.nbytes


def test_shards_are_found_beside_their_index(web, bucket, state):
    source = state()
    sr.save(source, web.folder / "m.safetensors", shard_bytes=20_000)
    with sr.open(f"{web.url}/m.safetensors.index.json", verify=True) as ckpt:
        assert content(ckpt) == content(source)
    sr.save(source, f"{bucket}/run/m.safetensors", shard_bytes=20_000)
    with sr.open(f"{bucket}/run") as ckpt:  # a directory, where the server lists one
        assert content(ckpt) == content(source)


def test_a_part_of_a_torch_file_is_opened_by_its_name(web, tmp_path):
    import torch

    torch.save({"model": {"w": torch.arange(6.0)}, "step": 3}, web.folder / "run.pt")
    with sr.open(f"{web.url}/run.pt::model") as ckpt:
        assert ckpt.read("w").tolist() == [0, 1, 2, 3, 4, 5]


def test_what_is_there_is_streamed_into_a_file(web, tmp_path, state):
    source = state(shape=BIG)
    sr.save(source, web.folder / "x.safetensors")
    done = sr.convert(f"{web.url}/x.safetensors", out=tmp_path / "y.safetensors", to="numpy", workers=2)
    with sr.open(tmp_path / "y.safetensors", verify=True) as ckpt:
        assert content(ckpt) == content(source)
    assert set(done.receipt.source_files) == {"x.safetensors"}


def test_a_conversion_goes_to_a_url(bucket, tmp_path, state):
    source = state(shape=BIG)
    sr.save(source, tmp_path / "x.safetensors")
    for suffix in ("safetensors", "npz"):
        done = sr.convert(tmp_path / "x.safetensors", out=f"{bucket}/y.{suffix}", to="numpy")
        assert str(done.target) == f"{bucket}/y.{suffix}"
        with sr.open(f"{bucket}/y.{suffix}", verify=True) as ckpt:
            assert content(ckpt) == content(source)
    with pytest.raises(errors.UnsupportedError, match="nothing to resume"):
        sr.convert(tmp_path / "x.safetensors", out=f"{bucket}/z.safetensors", to="numpy", resume=True)


@pytest.mark.parametrize("lengths", [True, False])
def test_a_server_without_parts_is_refused_before_the_file_arrives(web, state, lengths):
    sr.save(state(shape=(1024, 1024)), web.folder / "x.safetensors")
    web.ranges, web.lengths = False, lengths
    with pytest.raises(errors.UnsupportedError, match="download it first"), sr.open(f"{web.url}/x.safetensors") as ckpt:
        ckpt.read("layer1/w")
    assert web.sent < (web.folder / "x.safetensors").stat().st_size


def test_what_changes_while_it_is_open_is_an_error(web, bucket, state):
    sr.save(state(), web.folder / "x.safetensors")
    sr.save(state(), f"{bucket}/x.safetensors")
    with sr.open(f"{web.url}/x.safetensors") as ckpt, sr.open(f"{bucket}/x.safetensors") as other:
        ckpt.read("layer1/w")
        sr.save(state(seed=9), web.folder / "x.safetensors", overwrite=True)
        sr.save(state(seed=9), f"{bucket}/x.safetensors", overwrite=True)
        for one in (ckpt, other):
            with pytest.raises(errors.FileFormatError, match="has changed"):
                one.read("layer1/w")


def test_damage_is_found_behind_a_url(bucket, state):
    sr.save(state(), f"{bucket}/x.safetensors")
    system = fsspec.filesystem("memory")
    raw = bytearray(system.cat_file(f"{bucket}/x.safetensors"))
    raw[-1] ^= 1
    system.pipe_file(f"{bucket}/x.safetensors", bytes(raw))
    with sr.open(f"{bucket}/x.safetensors") as ckpt:
        assert len(ckpt.damaged()) == 1


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "pt"])
def test_truncated_files_are_errors(bucket, state, suffix):
    sr.save(state(), f"{bucket}/x.{suffix}")
    system = fsspec.filesystem("memory")
    whole = system.cat_file(f"{bucket}/x.{suffix}")
    for cut in (0, 7, len(whole) // 2, len(whole) - 1):
        system.pipe_file(f"{bucket}/x.{suffix}", whole[:cut])
        with pytest.raises(errors.StateError):
            sr.open(f"{bucket}/x.{suffix}")


def test_what_is_not_there_or_no_url_is_told(web, bucket, tmp_path):
    with pytest.raises(errors.FileMissingError, match="no such file"):
        sr.open(f"{web.url}/nothing.safetensors")
    with pytest.raises(errors.FileMissingError, match="no such file"):
        sr.open(f"{bucket}/nothing.safetensors")
    for text in ("s3://", "memory://a//b", "memory://a/../b", "https:///"):
        with pytest.raises(errors.UnsupportedError, match="no URL of a file"):
            sr.open(text)
    with pytest.raises(errors.UnsupportedError, match="Protocol not known"):
        sr.open("nobody://a/b")
    with pytest.raises(errors.FileAccessError):
        sr.open("http://127.0.0.1:9/x.safetensors")  # nobody listens


def test_a_protocol_whose_package_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "gs", raising=False)  # `fsspec.registry` is a mapping
    with pytest.raises(errors.MissingDependencyError, match="gcsfs"):
        sr.open("gs://bucket/x.safetensors")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(errors.MissingDependencyError, match=r"stateregistry\[remote\]"):
        sr.open("memory://a/b")


def test_nothing_remote_is_imported_for_a_local_file(tmp_path, state):
    sr.save(state(), tmp_path / "x.safetensors")
    code = (
        f"import sys, stateregistry as sr\nwith sr.open({str(tmp_path / 'x.safetensors')!r}) as c: c.read('layer1/w')\n"
        "assert not {'fsspec', 'aiohttp', 'h5py', 'tensorstore'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_file_url_is_a_path(tmp_path, state):
    sr.save(state(), f"file://{tmp_path}/a%20b.safetensors")
    with sr.open(f"file://{tmp_path}/a%20b.safetensors") as ckpt:
        assert ckpt.path == tmp_path / "a b.safetensors"


def test_routes_that_need_a_path_say_so(bucket, tmp_path, state):
    import torch

    torch.save({"w": torch.zeros(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    system = fsspec.filesystem("memory")
    system.put_file(str(tmp_path / "old.pt"), f"{bucket}/old.pt")
    sr.save(state(), f"{bucket}/x.orbax")
    for name in ("old.pt", "x.orbax"):
        with pytest.raises(errors.UnsupportedError, match="not from a URL"):
            sr.open(f"{bucket}/{name}")


def test_a_url_as_a_path_has_the_names_of_one():
    path = RemotePath("s3://bucket/run/x.safetensors")
    assert (str(path), os.fspath(path), path.name, path.suffix) == ("s3://bucket/run/x.safetensors",) * 2 + (
        "x.safetensors",
        ".safetensors",
    )
    assert str(path.with_name("y")) == "s3://bucket/run/y"
    assert str(path.parent / "z") == "s3://bucket/run/z"
    assert path == RemotePath("s3://bucket/run/x.safetensors")
    with pytest.raises(errors.UnsupportedError, match="as a whole"):
        path.open("wb")


# ------------------------------------------------------------------------------------------------------------- writing


def test_what_exists_stays_unless_it_is_to_be_replaced(bucket, state):
    sr.save(state(), f"{bucket}/x.safetensors")
    with pytest.raises(errors.TargetExistsError, match=r"/x\.safetensors: exists already"):
        sr.save(state(seed=9), f"{bucket}/x.safetensors")
    with sr.open(f"{bucket}/x.safetensors") as ckpt:
        assert content(ckpt) == content(state())
    sr.save(state(seed=9), f"{bucket}/x.safetensors", overwrite=True)
    with sr.open(f"{bucket}/x.safetensors", verify=True) as ckpt:
        assert content(ckpt) == content(state(seed=9))


def test_the_source_is_not_the_target(bucket, state):
    sr.save(state(), f"{bucket}/x.safetensors")
    with sr.open(f"{bucket}/x.safetensors") as ckpt, pytest.raises(errors.UnsupportedError, match="come from"):
        sr.save(ckpt, f"{bucket}/x.safetensors", overwrite=True)


def names(bucket):
    return sorted(path.rpartition("/")[2] for path in fsspec.filesystem("memory").find(bucket))


def test_new_shards_have_names_of_their_own_and_the_old_ones_go_at_the_end(bucket, state, monkeypatch):
    sr.save(state(), f"{bucket}/m.safetensors", shard_bytes=20_000)
    old = names(bucket)
    system = fsspec.filesystem("memory")
    put = type(system).put_file

    def failing(self, local, remote, *args, **options):
        if remote.endswith("index.json"):
            raise OSError("the line is cut")
        return put(self, local, remote, *args, **options)

    monkeypatch.setattr(type(system), "put_file", failing)
    with pytest.raises(errors.FileAccessError, match="the line is cut"):
        sr.save(state(seed=9), f"{bucket}/m.safetensors", shard_bytes=20_000, overwrite=True)
    with sr.open(f"{bucket}/m.safetensors.index.json", verify=True) as ckpt:
        assert content(ckpt) == content(state())
    monkeypatch.undo()
    sr.save(state(seed=9), f"{bucket}/m.safetensors", shard_bytes=20_000, overwrite=True)
    with sr.open(f"{bucket}/m.safetensors.index.json", verify=True) as ckpt:
        assert content(ckpt) == content(state(seed=9))
    assert not (set(old) - {"m.safetensors.index.json"}) & set(names(bucket))


def test_a_failed_upload_leaves_the_old_file(bucket, state, monkeypatch):
    sr.save(state(), f"{bucket}/x.safetensors")
    system = fsspec.filesystem("memory")

    def failing(self, *args, **options):
        raise PermissionError("not yours")

    monkeypatch.setattr(type(system), "put_file", failing)
    with pytest.raises(errors.FileAccessError, match="not yours"):
        sr.save(state(seed=9), f"{bucket}/x.safetensors", overwrite=True)
    with sr.open(f"{bucket}/x.safetensors", verify=True) as ckpt:
        assert content(ckpt) == content(state())


def test_errors_name_the_url_and_nothing_is_sent(bucket, specimen, bits):
    source = specimen({"a.b": bits("float32", (3,))})
    with pytest.raises(errors.UnsupportedError) as caught:
        sr.save(source, f"{bucket}/x.pt")
    assert "stateregistry-" not in str(caught.value)
    assert names(bucket) == []


def test_a_web_server_takes_nothing(web, state):
    with pytest.raises(errors.UnsupportedError, match="read and not written"):
        sr.save(state(), f"{web.url}/x.safetensors")


# ------------------------------------------------------------------------------------------------------ a real S3 API


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")
@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_goes_to_s3_and_comes_back(s3, state, suffix):
    source = state()
    sr.save(source, f"{s3}/formats/x.{suffix}")
    with sr.open(f"{s3}/formats/x.{suffix}", verify=True) as ckpt:
        assert content(ckpt) == content(source)
    if suffix != "dcp":
        with pytest.raises(errors.TargetExistsError):
            sr.save(source, f"{s3}/formats/x.{suffix}")


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")
def test_s3_takes_many_parts_and_shards(s3, specimen, bits, tmp_path):
    whole = specimen({"a/w": bits("uint8", (110 << 20,)), "b/w": bits("float32", (64, 64))}, dialect="numpy")
    sr.save(whole, f"{s3}/parts/x.safetensors")
    info = fsspec.filesystem("s3").info("models/parts/x.safetensors")
    assert "-" in info["ETag"]  # a tag of several parts
    with sr.open(f"{s3}/parts/x.safetensors") as ckpt:
        assert ckpt.damaged() == {}
        sr.convert(ckpt, out=f"{s3}/parts/y.safetensors", to="numpy", shard_bytes=64 << 20)
    with sr.open(f"{s3}/parts/y.safetensors.index.json") as ckpt:
        assert ckpt.read("b/w").tobytes() == whole.read("b/w").tobytes()


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")
def test_an_object_that_is_replaced_while_it_is_open_is_an_error(s3, state):
    sr.save(state(), f"{s3}/change/x.safetensors")
    with sr.open(f"{s3}/change/x.safetensors") as ckpt:
        sr.save(state(seed=9), f"{s3}/change/x.safetensors", overwrite=True)
        with pytest.raises(errors.StateError):
            ckpt.read("layer1/w")


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")
def test_a_bucket_that_is_not_there_is_an_error(s3, state):
    with pytest.raises(errors.StateError):
        sr.open("s3://nobodys-bucket/x.safetensors")
    with pytest.raises(errors.StateError):
        sr.save(state(), "s3://nobodys-bucket/Up_Per/x.safetensors")


def test_arrays_given_as_a_mapping_go_to_a_url(bucket):
    sr.save({"a": np.arange(3)}, f"{bucket}/x.safetensors")
    with sr.open(f"{bucket}/x.safetensors") as ckpt:
        assert ckpt.read("a").tolist() == [0, 1, 2]


def test_the_command_line_takes_urls(bucket, tmp_path, capsys):
    from stateregistry.cli import main

    source, npz, orbax = f"{bucket}/x.safetensors", f"{bucket}/y.npz", tmp_path / "z.orbax"
    sr.save({"a/w": np.arange(9, dtype=np.float32).reshape(3, 3)}, source)
    options = ["--to", "numpy", "--allow", "assumption"]
    assert main(["inspect", source]) == 0
    assert "1 parameter of 9 elements" in capsys.readouterr().out
    assert main(["convert", source, npz, *options]) == 0
    assert main(["convert", source, npz, *options]) == 3
    assert main(["convert", source, source, "--overwrite", *options]) == 2
    assert main(["verify", source, npz]) == 0
    assert main(["diff", source, npz]) == 0
    for code, more in ((0, []), (3, []), (0, ["--overwrite"])):
        assert main(["convert", source, str(orbax), *more, *options]) == code
    assert main(["verify", source, str(orbax), "--allow", "missing"]) in (0, 1)
