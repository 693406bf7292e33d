"""Checks of the corners, of what is written: values that look alike, keys that look alike, and failures in any company."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

import stateregistry as sr
from stateregistry import errors
from stateregistry_conformance.check import check
from stateregistry_conformance.checks.corners import PROBLEMS
from stateregistry_conformance.samples import all_bits_set, core, neighbours, others, signs_turned, values

if TYPE_CHECKING:
    from stateregistry_conformance.subject import Subject
    from stateregistry_conformance.verdict import Verdict


@check("SR-WRITE-001")
def bits_that_compare_equal_are_written(h: Subject, v: Verdict) -> None:
    # Whoever writes only what has changed, and asks `==` or `isclose` whether it has, loses signs of zero and NaNs.
    declaration = h.rich()
    zeros = {key: np.zeros_like(value) for key, value in declaration.values().items()}
    full = {key: all_bits_set(value) for key, value in zeros.items()}
    turns = {
        "zeros": zeros,
        "zeros with the sign turned": {key: signs_turned(value) for key, value in zeros.items()},
        "zeros again": zeros,
        "NaNs": full,
        "NaNs with the sign turned": {key: signs_turned(value) for key, value in full.items()},
        "what was declared": declaration.values(),
    }
    registry = h.registry(h.build(declaration))
    for name, given in turns.items():
        registry = registry.replace(given)
        v.same_state(h.peek_all(registry.unwrap(), declaration), given, f"native values after replace by {name}")
    v.passed()


@check("SR-WRITE-001")
def a_value_goes_to_one_key(h: Subject, v: Verdict) -> None:
    declaration = neighbours()
    for key in declaration.entries():
        given = values("written", (3, 3))
        registry = h.registry(h.build(declaration)).replace({key: given})
        expected = {**declaration.values(), key: given}
        v.same_state(h.peek_all(registry.unwrap(), declaration), expected, f"native values after replace of {key!r}")
    v.passed()


@check("SR-WRITE-015")
def a_flag_is_that_of_one_key(h: Subject, v: Verdict) -> None:
    declaration = neighbours()
    for flag in (False, True):
        for key in declaration.entries():
            registry = h.registry(h.build(declaration))
            if flag:
                registry = registry.with_trainable(dict.fromkeys(declaration.entries(), False))
            registry = registry.with_trainable({key: flag})
            changed = sorted(name for name, entry in registry.items() if entry.trainable is flag)
            v.equal(changed, [key], f"keys whose flag is {flag} after with_trainable({ {key: flag} })")
    v.passed()


@check("SR-ATOM-001")
def several_problems_at_once_change_nothing(h: Subject, v: Verdict) -> None:
    declaration = core()
    good = others(declaration)
    for first, second in permutations(PROBLEMS, 2):
        bad = {**PROBLEMS[first], **PROBLEMS[second]}
        rest = {key: value for key, value in good.items() if key not in bad}
        for name, given in (("before", {**bad, **rest}), ("after", {**rest, **bad})):
            model = h.build(declaration)
            registry = h.registry(model)
            text = f"problems of the classes {first} and {second}, {name} what is right"
            with v.refuses(errors.MismatchError, f"replace with {text}"):
                registry.replace(given)
            v.same_state(
                h.peek_all(model, declaration), declaration.values(), f"native values after replace with {text}"
            )
            with v.refuses(errors.LoadError, f"load with {text}"):
                sr.load(registry, given)
            v.same_state(h.peek_all(model, declaration), declaration.values(), f"native values after load with {text}")
            v.same_state(h.peek_all(registry.unwrap(), declaration), declaration.values(), "those of the registry")
    v.passed()


@check("SR-ATOM-001")
def one_problem_among_everything_changes_nothing(h: Subject, v: Verdict) -> None:
    declaration = h.rich()
    good = others(declaration)
    for key in list(good)[:: max(1, len(good) // 6)]:
        for name, bad in (("shape", np.zeros((2, 9), good[key].dtype)), ("value", "text")):
            model = h.build(declaration)
            registry = h.registry(model)
            text = f"replace of everything with a wrong {name} for {key!r}"
            with v.refuses(errors.MismatchError, text):
                registry.replace({**good, key: bad})
            v.same_state(h.peek_all(model, declaration), declaration.values(), f"native values after {text}")
            v.lists(registry, declaration.entries(), f"entries after {text}")
    v.passed()


@check("SR-ATOM-005")
def a_native_failure_among_everything_is_rolled_back(h: Subject, v: Verdict) -> None:
    declaration = h.rich()
    given = others(declaration)
    writable = [leaf.key for leaf in declaration.leaves if not leaf.rng]
    for key in [*writable[:: max(1, len(writable) // 5)], writable[-1]]:
        for order in (sorted(given), sorted(given, reverse=True)):
            model = h.fault(h.build(declaration), key)
            registry = h.registry(model)
            text = f"replace of everything when the native write of {key!r} fails"
            with v.refuses(errors.CommitError, text):
                registry.replace({name: given[name] for name in order})
            v.same_state(h.peek_all(model, declaration), declaration.values(), f"native values after {text}")
            v.lists(registry, declaration.entries(), f"entries after {text}")
    v.passed()
