"""What every test shares: how hypothesis searches, and that JAX stays on the CPU.

Profiles: `default` is what `make test` runs, with a fixed seed in CI so that a merge is not a matter of luck; `soak` is
a large budget for `make soak`. HYPOTHESIS_PROFILE chooses.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Before anything imports JAX: a test must not take an accelerator, nor warn that it has found none.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Frameworks compile and allocate on first use, so the time of one example says nothing.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
settings.register_profile("soak", settings.get_profile("default"), max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "default"))
