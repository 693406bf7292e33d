"""Makes the models of the zoo importable: importlib mode puts no directory on the path."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
