"""Departure: where two models begin to compute different things, as a value that can be read.

Made by `stateregistry.conversion.verification.bisect`; says what was seen and no more. Imports no framework.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, final

from stateregistry.conversion.verification.gaps import Gap, number

if TYPE_CHECKING:
    from stateregistry.conversion.planning.plan import Finding

Where = Literal["layer", "at or before", "between", "after", "gradual"]


@final
@dataclass(frozen=True, slots=True)
class Departure:
    """The first place, in the order in which `a` calls its layers, where the two models differ.

    Attributes:
        where: `layer`: the inputs of the layer agree and its output does not. `at or before`: likewise, but its inputs could
            not be read. `between`: its inputs differ already, and everything before it agrees. `after`: all layers that were
            compared agree. `gradual`: no layer alone; the difference grows from layer to layer and passes the tolerance here.
        source, target: the layer in `a` and in `b`, by path; several, joined by commas, where one call runs them all.
        kind: of the layer.
        call: which of its calls it is, from 1. calls: how many there are.
        output: the gap of its output, `None` where only its inputs were compared.
        inputs: the gap of its worst input, `None` where none could be compared.
        after: the layer before it that agrees, in `a` and in `b`; `None` where it is the first.
        passes: where the gap passes the tolerance, if that is later: the layer in `a`.
        findings: what the plan found about the config of the layer, or, where the place is no layer, about activations.
        state: target keys of the layer whose bits differ; where the place is no layer, those of no layer that was compared.
        remarks: what else is known: modes, what was not compared.
    """

    where: Where
    source: str
    target: str
    kind: str
    call: int
    calls: int
    output: Gap | None
    inputs: Gap | None
    after: tuple[str, str] | None = None
    passes: str = ""
    findings: tuple[Finding, ...] = ()
    state: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n  ".join((self._place(), *self._causes()))

    @property
    def layer(self) -> str:
        """What the layer is called on both sides, and what it is."""
        return _pair(self.source, self.target) + (f" ({self.kind})" if self.kind else "") + self._number()

    def _number(self) -> str:
        return f", call {self.call} of {self.calls}" if self.calls > 1 else ""

    def _place(self) -> str:
        agrees = f"its input agrees ({self.inputs})" if self.inputs is not None else "its input could not be compared"
        if self.where == "layer":
            grows = f"; it grows beyond the tolerance until {self.passes}" if self.passes else ""
            what = "the layer" if ", " not in self.source else "one of the layers that one call runs, or between them,"
            return f"{what} {self.layer}: {agrees}, its output differs by {self.output}{grows}"
        if self.where == "at or before":
            return f"at the layer {self.layer}, or before it: {agrees}, its output differs by {self.output}"
        other = "something that is none of the layers that were compared, such as an activation, a padding or a reshape"
        if self.where == "between":
            grows = f"; it grows beyond the tolerance until {self.passes}" if self.passes else ""
            start = "the input of the model" if self.after is None else _pair(*self.after)
            return f"between {start} and {self.layer}, whose input differs by {self.inputs}{grows}: {other}"
        if self.where == "after":
            start = "the input of the model" if self.after is None else _pair(*self.after)
            return f"after {start}, as every layer that was compared agrees: {other}"
        worse = self.output or self.inputs
        return (
            f"no layer alone: the difference grows from layer to layer, and passes the tolerance at {self.layer},"
            f" with {worse}; rounding does that, or many small differences"
        )

    def _causes(self) -> list[str]:
        lines = [f"its state differs: {', '.join(self.state)}"] if self.state else []
        lines += [f"what differs and no state carries: {finding}" for finding in self.findings]
        return [*lines, *self.remarks]

    def to_json(self) -> dict[str, Any]:
        """The same as a dict of JSON types."""
        row = {each.name: getattr(self, each.name) for each in fields(self)}
        row["output"], row["inputs"] = _gap(self.output), _gap(self.inputs)
        row["findings"] = [asdict(finding) for finding in self.findings]
        row["state"], row["remarks"] = list(self.state), list(self.remarks)
        row["after"] = None if self.after is None else {"a": self.after[0], "b": self.after[1]}
        row["text"] = str(self)
        return row


def _gap(found: Gap | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {"difference": number(found.difference), "scale": number(found.scale), "remark": found.remark}


def _pair(source: str, target: str) -> str:
    one, two = source or "(the model)", target or "(the model)"
    return one if one == two else f"{one} -> {two}"
