"""`stateregistry adapters`: what is installed, asked of metadata, without importing any framework."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

from stateregistry import plugins

NAMES = ["flax-linen", "flax-nnx", "numpy", "numpy-frozen", "optax", "torch", "torch-optim"]


def test_every_adapter_and_store_is_listed(run):
    done = run("adapters")
    assert done.code == 0
    for name in (*NAMES, "safetensors", "flax-msgpack", ".safetensors", ".pt"):
        assert name in done.out


def test_the_document_says_versions_and_origins(run):
    document = run("adapters", "--json").json
    assert document["schema"] == "stateregistry.adapters/1"
    assert [row["name"] for row in document["adapters"]] == NAMES
    rows = {row["name"]: row for row in document["adapters"]}
    assert rows["torch"]["version"] == metadata.version("torch")
    assert rows["flax-nnx"]["version"] == metadata.version("flax")
    assert rows["numpy"]["framework"] == ""
    assert all(row["distribution"] == "stateregistry" and row["error"] is None for row in rows.values())
    assert all(row["ready"] for row in rows.values())


def test_listing_imports_no_framework(room):
    code = (
        "import sys; from stateregistry.cli import main; code = main(['adapters']);"
        "heavy = {'torch', 'jax', 'flax'} & set(sys.modules);"
        "sys.exit(f'imports {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_missing_comes_with_the_way_to_install_it(run, monkeypatch):
    real = metadata.version

    def version(name):
        if name in ("flax", "torch"):
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    done = run("adapters")
    assert done.code == 0
    assert "torch not installed" in done.out
    assert "pip install 'stateregistry[torch]'" in done.out
    assert "2 ready to use" in done.out
    assert run("adapters", "--json").json["adapters"][-1]["ready"] is False


@pytest.mark.parametrize("error", [ImportError("no such thing"), AttributeError("adapter")])
def test_a_plugin_that_does_not_load_is_named(run, monkeypatch, error):
    found = (*plugins.discover(plugins.ADAPTERS), plugins.Found("alien", "alien-dist", "alien:adapter", error=error))
    stores = plugins.discover(plugins.STORES)
    monkeypatch.setattr(plugins, "discover", lambda group: found if group == plugins.ADAPTERS else stores)
    done = run("adapters")
    assert done.code == 0
    assert f"alien (alien:adapter) does not load: {type(error).__name__}" in done.out


def test_a_checkout_that_is_not_installed_says_so(run, monkeypatch):
    monkeypatch.setattr(plugins, "discover", lambda _: ())
    assert "pip install stateregistry" in run("adapters").out
