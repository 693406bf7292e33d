"""stateregistry_torch: PyTorch modules as registries, and the writing of `.pt` files.

`import stateregistry_torch` imports no framework: `adapter` and `store` are light objects that ask `sys.modules` whether
torch is loaded, and everything that needs torch is loaded when it is first used.
"""

from __future__ import annotations

from stateregistry_torch.adapter import adapter as adapter
from stateregistry_torch.declared import bare as bare
from stateregistry_torch.declared import register_layer as register_layer
from stateregistry_torch.store import store as store

__all__ = ["adapter", "bare", "register_layer", "store"]
