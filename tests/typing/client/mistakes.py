"""What the types refuse. Every line that ends in an ignore is an error, and an ignore without one is an error, too."""

from __future__ import annotations

import stateregistry as sr


def mistakes(model: object, reg: sr.StateRegistry, entry: sr.Entry, plan: sr.Plan) -> None:
    sr.paln(model, model)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    entry.trainable = True  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    sr.Entry("parameter", (1,), "float32")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    reg["a"] = entry  # type: ignore[index]  # pyright: ignore[reportIndexIssue]
    del reg["a"]  # type: ignore[attr-defined]  # pyright: ignore[reportIndexIssue]
    reg.read(key="a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    sr.plan(model, model, alow=("choice",))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    sr.convert(model, to=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    plan.moves.append(plan.moves[0])  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    plan.moves[0].op = "copy"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    sr.tools.ema(model, "0.9")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    sr.tools.average([model], buffers="best")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    sr.cast({}, reg, "roughly")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    number: str = sr.count(model)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    print(number)
    sr.StateRegistry()  # type: ignore[abstract]  # pyright: ignore[reportAbstractUsage]
    with sr.open("model.pt") as file:
        file.replace(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    sr.errors.MismatchError("text")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
