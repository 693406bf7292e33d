"""hf:// and gs:// through the clients that people have, against servers on loopback that speak their protocols."""

from __future__ import annotations

import uuid

import fsspec
import pytest
from stores.servers import GcsHandler, HubHandler, serving

import stateregistry as sr
from stateregistry import errors

# aiohttp has something to say to gcsfs.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")

FORMATS = ["safetensors", "npz", "msgpack", "pt", "dcp"]


def content(source):
    return {key: (source[key].dtype, source[key].kind, source.read(key).tobytes()) for key in source}


@pytest.fixture(scope="module")
def hub():
    """The Hub, and the URL of a repository."""
    from huggingface_hub import constants, file_download

    with serving(HubHandler) as server, pytest.MonkeyPatch.context() as patch:
        # What HF_ENDPOINT sets, when the package is imported.
        patch.setattr(constants, "ENDPOINT", server.url)
        patch.setattr(
            file_download, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        patch.setenv("HF_TOKEN", "hf_nobody")
        fsspec.get_filesystem_class("hf").clear_instance_cache()
        server.base = "hf://org/name"
        yield server
        fsspec.get_filesystem_class("hf").clear_instance_cache()


@pytest.fixture(scope="module")
def gcs():
    """GCS, and the URL of a bucket."""
    with serving(GcsHandler) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", server.url)
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        fsspec.get_filesystem_class("gs").clear_instance_cache()
        patch.setitem(fsspec.config.conf, "gs", {"token": "anon", "endpoint_url": server.url})
        server.base = "gs://models"
        yield server
        fsspec.get_filesystem_class("gs").clear_instance_cache()


@pytest.fixture(params=["hub", "gcs"])
def server(request):
    found = request.getfixturevalue(request.param)
    found.root = f"{found.base}/{uuid.uuid4().hex}"
    return found


@pytest.fixture
def state(bits, specimen):
    def make(seed=0, shape=(64, 64)):
        return specimen({f"layer{n}/w": bits("float32", shape, seed + n) for n in range(4)}, dialect="numpy")

    return make


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_goes_there_and_comes_back(server, state, suffix):
    source = state()
    made = sr.save(source, f"{server.root}/run/x.{suffix}")
    assert str(made) == f"{server.root}/run/x.{suffix}"
    with sr.open(made, verify=True) as ckpt:
        assert content(ckpt) == content(source)
    if suffix != "dcp":
        with pytest.raises(errors.TargetExistsError):
            sr.save(source, f"{server.root}/run/x.{suffix}")
        sr.save(state(seed=5), f"{server.root}/run/x.{suffix}", overwrite=True)
        with sr.open(made, verify=True) as ckpt:
            assert content(ckpt) == content(state(seed=5))


def test_a_header_is_read_without_the_values_and_a_value_without_the_others(server, state):
    source = state(shape=(512, 512))
    sr.save(source, f"{server.root}/x.safetensors")
    size = 4 * 512 * 512 * 4
    server.sent = 0
    with sr.open(f"{server.root}/x.safetensors") as ckpt:
        assert len(ckpt) == 4
        assert server.sent < size // 8
        assert ckpt.read("layer2/w").tobytes() == source.read("layer2/w").tobytes()
        assert server.sent < size // 2


def test_shards_are_sent_and_opened_by_their_index_and_by_their_directory(server, state, tmp_path):
    source = state()
    sr.save(source, tmp_path / "x.safetensors")
    for overwrite in (False, True):  # the second time under other names, and the first shards go
        done = sr.convert(
            tmp_path / "x.safetensors", out=f"{server.root}/run/m.safetensors", to="numpy", shard_bytes=40_000,
            overwrite=overwrite,
        )  # fmt: skip
        with sr.open(done.target, verify=True) as ckpt:
            assert content(ckpt) == content(source)
    assert len([name for name in server.files if f"{server.root}/run/".endswith(name.rpartition("/")[0] + "/")]) == 3
    with sr.open(f"{server.root}/run") as ckpt:
        assert content(ckpt) == content(source)


def test_what_changes_while_it_is_open_is_an_error(server, state):
    sr.save(state(), f"{server.root}/x.safetensors")
    with sr.open(f"{server.root}/x.safetensors") as ckpt:
        ckpt.read("layer1/w")
        sr.save(state(seed=9), f"{server.root}/x.safetensors", overwrite=True)
        with pytest.raises(errors.FileFormatError, match="has changed"):
            ckpt.read("layer1/w")


def test_what_is_not_there_is_told(server, state):
    sr.save(state(), f"{server.root}/x.safetensors")
    with pytest.raises(errors.FileMissingError, match="no such file"):
        sr.open(f"{server.root}/nothing.safetensors")
    other = "hf://org/other" if server.root.startswith("hf") else "gs://other"
    with pytest.raises(errors.StateError):
        sr.open(f"{other}/x.safetensors")
    with pytest.raises(errors.StateError):
        sr.save(state(), f"{other}/x.safetensors")


def test_gcs_takes_many_parts(gcs, bits):
    value = bits("uint8", (110 << 20,))
    sr.save({"w": value}, f"{gcs.base}/parts.safetensors")
    assert gcs.parts == 3  # of 50 MiB
    with sr.open(f"{gcs.base}/parts.safetensors") as ckpt:
        assert ckpt.damaged() == {}
