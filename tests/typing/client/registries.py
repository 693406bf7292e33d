"""Reads, compares and writes state through the public names, as somebody else's project would."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_type

import numpy as np

import stateregistry as sr


def read(model: object) -> dict[str, np.ndarray]:
    reg = sr.of(model)
    assert_type(reg, sr.StateRegistry)
    entry = reg["encoder/0/weight"]
    assert_type(entry, sr.Entry)
    assert_type(entry.kind, sr.Kind)
    assert_type(entry.shape, tuple[int, ...])
    assert_type(entry.trainable, bool)
    assert_type(reg.aliases, Mapping[str, str])
    assert_type(reg.native_order, tuple[str, ...])
    assert_type(reg.layers, tuple[sr.Layer, ...])
    names: list[str] = [key for key, one in reg.items() if one.kind is sr.Kind.PARAMETER]
    return {key: reg.read(key) for key in names}


def write(reg: sr.StateRegistry, values: Mapping[str, np.ndarray]) -> sr.StateRegistry:
    report = sr.check(reg, values, partial=True)
    assert_type(report, sr.Report)
    for problem in report:
        print(problem.key, problem.expected, problem.found)
    if not report.ok:
        return reg
    reg = reg.replace(values)
    return reg.with_trainable({"encoder/0/weight": False})


def files(model: object, folder: Path) -> sr.Diff:
    path = sr.save(model, folder / "model.safetensors", shard_bytes=10**9, overwrite=True, extra={"note": "mine"})
    assert_type(path, Path)
    with sr.open(path, like=model, verify=True) as file:
        assert_type(file.path, Path)
        damaged: Mapping[str, str] = file.damaged()
        print(damaged)
        sr.load(model, file, allow=("missing",))
        return sr.diff(file, model, rtol=1e-3)


def tools(model: object, other: object, out: Path) -> None:
    assert_type(sr.count(model, sr.Kind.PARAMETER), int)
    assert_type(sr.snapshot(sr.of(model)), dict[str, np.ndarray])
    average = sr.tools.ema(model, lambda step: min(0.999, step / 10), buffers="copy")
    average.update(model)
    sr.save(average.registry, out)
    sr.save(sr.tools.average([model, other], weights=[0.5, 0.5], buffers="last"), out)
    sr.save(sr.tools.interpolate(model, other, 0.3), out)
    for key, one in sr.tools.stats(model, "encoder/*").items():
        print(key, one.mean, one.std, one.finite)
    frozen = sr.tools.freeze(model, lambda key, entry: entry.size > 10 and key.startswith("encoder"))
    assert_type(sr.tools.unfreeze(frozen), sr.StateRegistry)
    assert_type(sr.tools.hash(model), str)
    kernels = sr.tools.by_layer(model, "*kernel", kinds=("linear", "conv"))
    print(sr.mask(model, kernels))
    both = sr.tools.merge({"one": model, "two": other})
    sr.load(model, sr.tools.split(both, "one"))
    cast = sr.cast(sr.snapshot(model), sr.of(model), "lossless")
    print({name: value.dtype for name, value in cast.items()})


def keys() -> tuple[str, ...]:
    key = sr.keys.join("a/b", "c")
    tree: dict[str, Any] = sr.keys.nest({key: 1})
    assert sr.keys.flatten(tree) == {key: 1}
    return sr.keys.split(key)


def errors(reg: sr.StateRegistry) -> str:
    try:
        reg.read("gone")
    except sr.errors.UnknownKeyError as error:
        return f"{error.message}: {', '.join(error.keys)}; {error.hint}"
    except sr.errors.MismatchError as error:
        return "; ".join(error.report.missing)
    except (sr.StateError, KeyError) as error:
        return str(error)
    return ""
