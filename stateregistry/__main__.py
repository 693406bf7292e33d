"""`python -m stateregistry` is `stateregistry`."""

from __future__ import annotations

import sys

from stateregistry.cli import main

if __name__ == "__main__":
    sys.exit(main())
