"""A layer of toybox becomes one of PyTorch. Needs `pip install 'stateregistry[torch]'`."""

from __future__ import annotations

import torch
import toybox

import stateregistry as sr

head = toybox.Affine(3, 2)
head.grid.numbers = [1, 2, 3, 4, 5, 6]
head.shift.numbers = [100, 200]

linear = torch.nn.Linear(3, 2)
sr.convert(head, linear)
print(linear.weight.tolist())
print(linear(torch.tensor([1.0, 2.0, 3.0])).tolist(), head([1.0, 2.0, 3.0]))
print({key: tuple(value.shape) for key, value in sr.convert(head, to="torch").target.items()})
