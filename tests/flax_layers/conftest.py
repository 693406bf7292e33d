"""Makes the cases beside the tests importable, and keeps Flax on the CPU: importlib mode puts no directory on the path."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parent))
