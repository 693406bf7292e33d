"""stateregistry_conformance: the conformance suite of the stateregistry specification.

An author writes a harness (`stateregistry_conformance.harness`) and runs `python -m stateregistry_conformance NAME`.
The suite imports NumPy and the core, never a framework and never an adapter: harnesses are found by entry point.
"""

from __future__ import annotations

from stateregistry_conformance.declaration import CannotBuild as CannotBuild
from stateregistry_conformance.declaration import Declaration as Declaration
from stateregistry_conformance.declaration import Leaf as Leaf
from stateregistry_conformance.harness import Harness as Harness
from stateregistry_conformance.harness import Specimen as Specimen
from stateregistry_conformance.trials.case import LayerCase as LayerCase

__all__ = ["CannotBuild", "Declaration", "Harness", "LayerCase", "Leaf", "Specimen"]
