"""The formulas of embedding and PReLU against torch, Linen and NNX."""

from __future__ import annotations

import flax.linen as nn
import numpy as np
import pytest
import torch
from flax import nnx

from stateregistry.errors import AxesError, UnsupportedError
from stateregistry_conformance.formulas import Named, forward

IDS = np.array([[3, 0, 1], [1, 2, 2]])


def test_embedding_is_what_torch_computes(bench) -> None:
    module = bench.torch(torch.nn.Embedding(4, 4, padding_idx=1))
    table, native = module.weight.detach().numpy(), module(torch.tensor(IDS))
    right, turned = ({"embedding": Named(table, axes)} for axes in (("vocab", "features"), ("features", "vocab")))
    bench.agrees(forward("embedding", right, {"padding_idx": 1}, [IDS])[0], native)
    bench.departs(forward("embedding", turned, {}, [IDS])[0], native)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_a_bag_of_embeddings_is_what_torch_computes(bench, mode) -> None:
    module = bench.torch(torch.nn.EmbeddingBag(4, 4, mode=mode))
    roles = {"embedding": Named(module.weight.detach().numpy(), ("vocab", "features"))}
    native = module(torch.tensor(IDS))
    bench.agrees(forward("embedding", roles, {"mode": mode}, [IDS])[0], native)
    with pytest.raises(AxesError, match="padding_idx"):
        forward("embedding", roles, {"mode": mode, "padding_idx": 1}, [IDS])


@pytest.mark.parametrize("order", [2.0, 1.0])
def test_rows_that_are_too_long_are_shortened_as_torch_does(bench, order) -> None:
    module = bench.torch(torch.nn.Embedding(4, 4, max_norm=1.5, norm_type=order))
    table = module.weight.detach().numpy().copy()  # a lookup rewrites the rows that it takes
    roles, ids = {"embedding": Named(table, ("vocab", "features"))}, np.array([3, 0, 1])
    native = module(torch.tensor(ids)).detach()
    bench.agrees(forward("embedding", roles, {"max_norm": 1.5, "norm_type": order}, [ids])[0], native)
    bench.departs(forward("embedding", roles, {}, [ids])[0], native)
    bench.departs(table.astype(np.float64), module.weight)


@pytest.mark.parametrize("flavour", ["linen", "nnx"])
def test_embedding_is_what_flax_computes(bench, flavour) -> None:
    if flavour == "linen":
        module = nn.Embed(4, 4)
        values = bench.linen(module, IDS)["params"]
        native = module.apply({"params": values}, IDS)
    else:
        module = nnx.Embed(4, 4, rngs=nnx.Rngs(0))
        values = bench.nnx(module, "embedding")
        native = module(IDS)
    roles = {"embedding": Named(values["embedding"], ("vocab", "features"))}
    bench.agrees(forward("embedding", roles, {}, [IDS])[0], native)


@pytest.mark.parametrize(("ids", "says"), [([4], "4 rows"), ([-1], "from -1"), ([0.0], "integers")], ids=str)
def test_an_index_that_is_none_is_refused(ids, says) -> None:
    roles = {"embedding": Named(np.ones((4, 4)), ("vocab", "features"))}
    with pytest.raises(UnsupportedError, match=says):
        forward("embedding", roles, {}, [np.array(ids)])


@pytest.mark.parametrize("number", [1, 4])
def test_prelu_is_what_torch_computes(bench, number) -> None:
    module = bench.torch(torch.nn.PReLU(number))
    x = bench.draw(4, 4, 4)
    slope = module.weight.detach().numpy()
    native = np.moveaxis(module(torch.tensor(np.moveaxis(x, -1, 1)).double()).detach().numpy(), 1, -1)
    if number == 1:
        bench.agrees(forward("prelu", {"slope": Named(slope.reshape(()), ())}, {}, [x])[0], native)
    else:
        bench.agrees(forward("prelu", {"slopes": Named(slope, ("features",))}, {}, [x])[0], native)
        bench.departs(forward("prelu", {"slopes": Named(slope[::-1], ("features",))}, {}, [x])[0], native)


@pytest.mark.parametrize("flavour", ["linen", "nnx"])
def test_prelu_of_flax_has_one_slope_without_an_axis(bench, flavour) -> None:
    x = bench.draw(4, 4)
    if flavour == "linen":
        module = nn.PReLU()
        values = bench.linen(module, x)["params"]
        native = module.apply({"params": values}, x)
    else:
        module = nnx.PReLU()
        values = bench.nnx(module, "negative_slope")
        native = module(x)
    assert values["negative_slope"].shape == ()
    bench.agrees(forward("prelu", {"slope": Named(np.asarray(values["negative_slope"]), ())}, {}, [x])[0], native)


def test_as_many_slopes_as_features_or_one() -> None:
    x, one = np.ones((2, 4)), Named(np.ones(()), ())
    for number in (1, 3):
        with pytest.raises(AxesError, match="the number of slopes"):
            forward("prelu", {"slopes": Named(np.ones(number), ("features",))}, {}, [x])
    with pytest.raises(AxesError, match="axes"):
        forward("prelu", {"slope": Named(np.ones(4), ("features",))}, {}, [x])
    for roles in ({}, {"slope": one, "slopes": Named(np.ones(4), ("features",))}):
        with pytest.raises(UnsupportedError, match="one of slope and slopes"):
            forward("prelu", roles, {}, [x])
