"""The lockstep machine: random programs over a registry, step by step beside an oracle of flat dicts.

`oracle` says what the state should be and which error a call should raise, from dicts alone; it knows no adapter and uses no
function of the core that it judges. `driver` runs one literal program against a harness and compares by bytes after every
step. `machine` lets Hypothesis write the programs and shortens one that fails to text that can be pasted. Importing this
package imports NumPy and the core; Hypothesis is imported when a search begins.
"""

from __future__ import annotations

from stateregistry_conformance.lockstep.driver import IDS, Found, Lockstep
from stateregistry_conformance.lockstep.machine import Finding, search

__all__ = ["IDS", "Finding", "Found", "Lockstep", "search"]
