"""Every case that the suite tries: kinds and their config, wrappers, stacks. Sizes are equal, so that no shape helps.

Each plain case has a twin whose sizes all differ (`apart`): what is right there and wrong among equal sizes was guessed from
shapes. Config is asked for with values that no framework has by default; what nobody asked for is tried with data so small
that the default decides. Imports the vocabulary of the core.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from stateregistry.layers.vocabulary import ROLES
from stateregistry_conformance.trials.case import LayerCase

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_AFFINE: Final = ("scale", "bias")
_STATISTICS: Final = ("mean", "var", "count")
_PROJECTIONS: Final = tuple(name for name in ROLES["attention"] if not name.startswith("extra"))


def _case(
    name: str,
    kind: str,
    sizes: Mapping[str, int],
    apart: Mapping[str, int] | None,
    roles: Iterable[str],
    config: Mapping[str, Any] | None = None,
    apart_config: Mapping[str, Any] | None = None,
    **more: Any,
) -> LayerCase:
    held, given = frozenset(roles), dict(config or {})
    twin = None
    if apart is not None:
        twin = LayerCase(
            f"{name}, sizes that differ", kind, dict(apart), held, given | dict(apart_config or {}), **more
        )
    return LayerCase(name, kind, dict(sizes), held, given, apart=twin, **more)


def _without(kind: str, *endings: str) -> tuple[str, ...]:
    return tuple(role for role in ROLES[kind] if not role.endswith(endings))


def _linear() -> Iterator[LayerCase]:
    same, apart = {"in": 4, "out": 4}, {"in": 3, "out": 5}
    yield _case("linear", "linear", same, apart, ("kernel", "bias"))
    yield _case("linear without bias", "linear", same, apart, ("kernel",))
    yield _case(
        "linear with two axes out", "linear", {"in": 4, "out.0": 4, "out.1": 4}, {"in": 4, "out.0": 2, "out.1": 3},
        ("kernel", "bias"),
    )  # fmt: skip
    two, more = {"in1": 4, "in2": 4, "out": 4}, {"in1": 3, "in2": 4, "out": 5}
    yield _case("bilinear", "bilinear", two, more, ("kernel", "bias"))
    yield _case("bilinear without bias", "bilinear", two, more, ("kernel",))
    yield _case("embedding", "embedding", {"vocab": 4, "features": 4}, {"vocab": 5, "features": 3}, ("embedding",))
    for mode in ("sum", "mean", "max"):
        yield _case(
            f"embedding, {mode}", "embedding", {"vocab": 4, "features": 4}, None, ("embedding",), {"mode": mode}
        )
    limited = {"max_norm": 1.0, "norm_type": 1.0}
    yield _case("embedding, max_norm", "embedding", {"vocab": 4, "features": 4}, None, ("embedding",), limited)
    for row in (1, 2):
        yield _case(
            f"embedding, padding_idx {row}", "embedding", {"vocab": 4, "features": 4}, None, ("embedding",),
            {"padding_idx": row},
        )  # fmt: skip
    yield _case("prelu", "prelu", {"features": 4}, {"features": 5}, ("slope",))
    yield _case("prelu with a slope for each feature", "prelu", {"features": 4}, {"features": 5}, ("slopes",))


def _space(sizes: tuple[int, ...], **more: int) -> dict[str, int]:
    return {**more, **{f"spatial.{number}": size for number, size in enumerate(sizes)}}


def _convolutions() -> Iterator[LayerCase]:
    both = ("kernel", "bias")
    moved = {"stride": 2, "padding": 1}
    for kind in ("conv", "conv_transpose"):
        for rank in (1, 2, 3):
            equal, apart = _space((4,) * rank, **{"in": 4, "out": 4}), _space((2, 3, 4)[:rank], **{"in": 3, "out": 5})
            yield _case(f"{kind} {rank}d", kind, equal, apart, both, moved)
        flat, grouped = _space((4, 4), **{"in": 4, "out": 4}), _space((2, 3), **{"in": 4, "out": 6})
        line = _space((4,), **{"in": 4, "out": 4})
        yield _case(f"{kind} without bias", kind, line, None, ("kernel",), {"stride": 3, "padding": 2})
        yield _case(f"{kind} in groups", kind, flat, grouped, both, {"groups": 2, **moved})
        yield _case(f"{kind}, dilated", kind, flat, None, both, {"dilation": 2, "padding": 2})
        yield _case(
            f"{kind}, stride and dilation by axis", kind, flat, None, both, {"dilation": (1, 2), "stride": (2, 1)}
        )
        yield _case(f"{kind}, padded by side", kind, flat, None, both, {"padding": ((1, 2), (0, 1)), "stride": (2, 1)})
        for word in ("SAME", "VALID"):
            yield _case(f"{kind}, {word}", kind, flat, None, both, {"padding": word})
            yield _case(f"{kind}, {word}, stride 2", kind, flat, None, both, {"padding": word, "stride": 2})
    for mode in ("circular", "reflect", "replicate"):
        yield _case(f"conv, {mode}", "conv", line, None, both, {"padding": 1, "padding_mode": mode})
        yield _case(f"conv, {mode} by side", "conv", line, None, both, {"padding": ((1, 2),), "padding_mode": mode})
    asked = {"stride": 2, "padding": 1, "output_padding": 1}
    yield _case("conv_transpose, output_padding", "conv_transpose", flat, None, both, asked)
    for laid_out in (True, False):
        yield _case(
            f"conv_transpose, transpose_kernel {laid_out}".lower(), "conv_transpose", flat, grouped, both,
            {"transpose_kernel": laid_out, **moved},
        )  # fmt: skip


def _norms() -> Iterator[LayerCase]:
    one, other, running = {"features": 4}, {"features": 6}, (*_AFFINE, *_STATISTICS)
    eps: dict[str, Any] = {"eps": 0.3}
    for kind in ("batch_norm", "instance_norm"):
        yield _case(f"{kind} with statistics", kind, one, other, running, eps)
        yield _case(f"{kind}, statistics alone", kind, one, other, _STATISTICS, eps)
        yield _case(f"{kind} without statistics", kind, one, other, _AFFINE, eps)
        for momentum in (0.25, 0.375):
            held = running if kind == "batch_norm" else _AFFINE
            yield _case(f"{kind}, momentum {momentum}", kind, one, None, held, {**eps, "momentum": momentum})
    yield _case("layer_norm", "layer_norm", one, other, _AFFINE, eps)
    yield _case("layer_norm without bias", "layer_norm", one, None, ("scale",), eps)
    yield _case("rms_norm", "rms_norm", one, other, ("scale",), eps)
    yield _case("group_norm", "group_norm", one, other, _AFFINE, {**eps, "groups": 2})
    for kind, roles, more in (
        ("batch_norm", running, {}), ("instance_norm", _AFFINE, {}), ("layer_norm", _AFFINE, {}), ("rms_norm", ("scale",), {}),
        ("group_norm", _AFFINE, {"groups": 2}),
    ):  # fmt: skip
        yield _case(f"{kind}, another eps", kind, one, None, roles, {"eps": 0.6, **more})
    yield _case(
        "group_norm in groups of one", "group_norm", {"features": 4}, {"features": 3}, _AFFINE, {"eps": 0.3, "groups": 4},
        {"groups": 3},
    )  # fmt: skip
    two, apart = {"features.0": 4, "features.1": 4}, {"features.0": 3, "features.1": 5}
    yield _case("layer_norm over two axes", "layer_norm", two, apart, _AFFINE, {"eps": 0.3})
    yield _case("rms_norm over two axes", "rms_norm", two, apart, ("scale",), {"eps": 0.3})
    for kind, roles in (("layer_norm", _AFFINE), ("rms_norm", ("scale",))):
        config = {"eps": 0.3, "normalized_axes": 2}
        yield _case(f"{kind} of two axes, scale of one", kind, {"features": 4}, {"features": 6}, roles, config)


def _attentions() -> Iterator[LayerCase]:
    equal = {"in": 4, "key_in": 4, "value_in": 4, "out": 4}
    apart = {"in": 6, "key_in": 6, "value_in": 6, "out": 6}
    config, other = {"heads": 2, "head_dim": 2}, {"heads": 2, "head_dim": 3}
    yield _case("attention", "attention", equal, apart, _PROJECTIONS, config, other)
    bare = tuple(role for role in _PROJECTIONS if not role.endswith("bias"))
    yield _case("attention without bias", "attention", equal, apart, bare, config, other)
    cross = {**equal, "key_in": 3, "value_in": 3}
    yield _case("attention to other features", "attention", cross, None, _PROJECTIONS, config)
    yield _case("attention to two other features", "attention", {**cross, "value_in": 5}, None, _PROJECTIONS, config)
    yield _case("attention with a step of its own", "attention", equal, apart, ROLES["attention"], config, other)
    yield _case(
        "attention with a step of zeros", "attention", equal, None, _PROJECTIONS, {**config, "add_zero_attn": True}
    )
    for dropout in (0.25, 0.5):
        yield _case(
            f"attention, dropout {dropout}", "attention", equal, None, _PROJECTIONS, {**config, "dropout": dropout}
        )


def _recurrent() -> Iterator[LayerCase]:
    equal, apart = {"in": 4, "hidden": 4, "state": 4}, {"in": 3, "hidden": 5, "state": 5}
    for kind in ("lstm", "gru", "rnn"):
        roles = _without(kind, "projection_kernel")
        yield _case(kind, kind, equal, apart, roles)
        yield _case(f"{kind} without bias", kind, equal, apart, _without(kind, "projection_kernel", "bias"))
        yield _case(f"{kind} from the end", kind, equal, None, roles, {"reverse": True})
        yield _case(f"{kind}, relu", kind, equal, None, roles, {"activation": "relu"})
        if kind != "rnn":
            yield _case(f"{kind}, gates of tanh", kind, equal, None, roles, {"gate_activation": "tanh"})
    yield _case("rnn with residual", "rnn", equal, None, ROLES["rnn"], {"residual": True})
    narrow, narrower = {"in": 2, "hidden": 4, "state": 2}, {"in": 3, "hidden": 5, "state": 2}
    yield _case("lstm with a projection", "lstm", narrow, narrower, ROLES["lstm"])


def _named(cases: Iterable[LayerCase]) -> dict[str, LayerCase]:
    return {case.name: case for case in cases}


#: One layer of each kind, with and without what it may have, and with config that somebody asked for.
PLAIN: Final[Mapping[str, LayerCase]] = _named((*_linear(), *_convolutions(), *_norms(), *_attentions(), *_recurrent()))

#: The plain case of every kind that a framework with the kind can build: one of these.
BASES: Final[Mapping[str, tuple[str, ...]]] = {
    "linear": ("linear",), "bilinear": ("bilinear",), "embedding": ("embedding",),
    "prelu": ("prelu", "prelu with a slope for each feature"),
    **{kind: tuple(f"{kind} {rank}d" for rank in (1, 2, 3)) for kind in ("conv", "conv_transpose")},
    **{kind: tuple(name for name in PLAIN if PLAIN[name].kind == kind)
       for kind in ("batch_norm", "instance_norm", "layer_norm", "rms_norm", "group_norm")},
    "attention": ("attention",), "lstm": ("lstm",), "gru": ("gru",), "rnn": ("rnn",),
}  # fmt: skip


def _defaults() -> Iterator[LayerCase]:
    one = {"features": 4}
    given: tuple[tuple[str, tuple[str, ...], dict[str, Any]], ...] = (
        ("batch_norm", (*_AFFINE, *_STATISTICS), {}),
        ("instance_norm", _AFFINE, {}),
        ("layer_norm", _AFFINE, {}),
        ("rms_norm", ("scale",), {}),
        ("group_norm", _AFFINE, {"groups": 2}),
    )
    for kind, roles, config in given:
        yield _case(f"{kind} as it is made", kind, one, None, roles, config, small=True)


#: Layers that nobody asked anything of but what they cannot do without: `eps` is the framework's own.
DEFAULTS: Final[Mapping[str, LayerCase]] = _named(_defaults())


def _wrapped() -> Iterator[LayerCase]:
    plain = {
        "linear": PLAIN["linear"],
        "conv": replace(PLAIN["conv 2d"], apart=None),
        "conv_transpose": replace(PLAIN["conv_transpose 2d"], apart=None),
    }
    kept = {
        "linear": ("out", "in", ""),
        "conv": ("out", "in/groups", "spatial.1", ""),
        "conv_transpose": ("in", "out/groups", "spatial.0", ""),
    }
    for kind, case in plain.items():
        for axis in kept[kind]:
            over = f"a norm for each {axis}" if axis else "one norm for all"
            yield replace(
                case,
                name=f"{kind} under weight_norm, {over}",
                config={**case.config, "weight_norm_dim": axis},
                apart=None,
            )
        yield replace(
            case, name=f"{kind} under spectral_norm", config={**case.config, "spectral_norm": True}, apart=None
        )


#: Layers whose kernel a wrapper computes.
WRAPPED: Final[Mapping[str, LayerCase]] = _named(_wrapped())

#: Recurrent modules of several layers, in one direction or both.
DEEP: Final[Mapping[str, LayerCase]] = _named(
    replace(
        PLAIN[kind], name=f"{kind}, {depth} layers, {directions} direction{'s' * (directions - 1)}", depth=depth,
        directions=directions, sizes={**PLAIN[kind].sizes, "in": 4}, apart=None,
    )
    for kind, depth, directions in (("lstm", 2, 1), ("lstm", 1, 2), ("lstm", 2, 2), ("gru", 2, 2), ("rnn", 2, 2))
)  # fmt: skip


def _stacked() -> Iterator[LayerCase]:
    for kind in ("linear", "layer_norm", "conv 1d"):
        case = PLAIN[kind]
        config = {"padding": "SAME"} if case.kind == "conv" else case.config
        for depth in (4, 3):  # as many as every other size, and another number: a shape alone tells the axis then
            yield replace(
                case, name=f"{depth} of {case.kind} in a stack", config=config, depth=depth, stacked=True, apart=None
            )


#: Layers of which one array holds all.
STACKED: Final[Mapping[str, LayerCase]] = _named(_stacked())
