"""A model of toybox becomes one of the NumPy reference, and comes back."""

from __future__ import annotations

import toybox

import stateregistry as sr


class Model(toybox.Box):
    def __init__(self) -> None:
        self.body = toybox.Affine(3, 3)
        self.head = toybox.Affine(3, 2)
        self.steps = toybox.Stat((), "int64")


model = Model()
model.body.grid.numbers = [1, 2, 3, 4, 5, 6, 7, 8, 9]
model.head.grid.numbers = [1, 2, 3, 4, 5, 6]
model.head.shift.numbers = [100, 200]
model.steps.numbers = [2**53 + 1]

done = sr.convert(model, to="numpy")
print(done.plan)
print("grid  ", model.head.grid.numbers)
print("matrix", done.target.head.matrix.array.tolist())

x = [1.0, 2.0, 3.0]
print("toybox", model.head(model.body(x)))
print("numpy ", done.target.head(done.target.body(x)).tolist())

fresh = Model()
sr.convert(done.target, fresh)
print("there and back:", sr.diff(model, fresh))
