"""What a conversion gives back: the result, and the record of how it came to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, final

import numpy as np

from stateregistry._version import __version__
from stateregistry.conversion.planning.plan import Plan
from stateregistry.conversion.residual import Residual


@final
@dataclass(frozen=True, slots=True)
class Receipt:
    """The record of a finished conversion.

    Attributes:
        version: of stateregistry. plan: sha256 of the plan's JSON.
        source, target: dialects. moves: how many of each op.
        digests: xxh3_128 of every value that was written, by target key.
        stale: residual records that were not used, because the values they belong to have changed since.
        rules: those of the plan. numpy: its version.
        source_files: xxh3_128 of every file that was read, by name. files: sha256 of every file that was written, by name.
    """

    version: str
    plan: str
    source: str
    target: str
    moves: Mapping[str, int]
    digests: Mapping[str, str] = field(default_factory=dict)
    stale: tuple[str, ...] = ()
    rules: Mapping[str, Any] = field(default_factory=dict)
    numpy: str = np.__version__
    source_files: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        plan: Plan,
        name: str,
        digests: Mapping[str, str],
        stale: tuple[str, ...],
        source_files: Mapping[str, str],
        files: Mapping[str, str],
    ) -> Receipt:
        """The receipt of a plan that was executed; `name` is the digest of the plan.

        Args:
            digests: of every value that was written, by target key.
            stale: the residual records that were not used.
            source_files, files: digests of what was read and of what was written, by name.
        """
        counts: dict[str, int] = {}
        for move in plan.moves:
            counts[move.op] = counts.get(move.op, 0) + 1
        return cls(
            __version__, name, plan.source.dialect, plan.target.dialect, counts, dict(sorted(digests.items())),
            stale, plan.rules.to_dict(), source_files=dict(source_files), files=dict(files),
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "schema": "stateregistry.receipt/1", "stale": list(self.stale)}


@final
@dataclass(frozen=True, slots=True)
class Done:
    """What a conversion gave.

    Attributes:
        target: the native object with the new state (torch: the same module), or the path that was written.
        plan: the plan that was executed. receipt: the record of it.
        residual: what the target has no place for; pass it as `residual=` on the way back. A file carries its own.
    """

    target: Any
    plan: Plan
    receipt: Receipt
    residual: Residual
