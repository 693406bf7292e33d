"""What every test shares: how hypothesis searches, that JAX stays on the CPU, and one browser.

Profiles: `default` is what `make test` runs, with a fixed seed in CI so that a merge is not a matter of luck; `soak` is
a large budget for `make soak`. HYPOTHESIS_PROFILE chooses.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Before anything imports JAX: a test must not take an accelerator, nor warn that it has found none.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# Frameworks compile and allocate on first use, so the time of one example says nothing.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
settings.register_profile("soak", settings.get_profile("default"), max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "default"))

_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all pages: its driver can be started once in a process.

    Where there is none the test is skipped on a developer's machine and fails in CI.
    """
    from playwright.sync_api import sync_playwright  # lazy: few tests need it

    path = next((found for name in _CHROMIUM if (found := shutil.which(name))), None)
    if path is None:
        assert not os.environ.get("CI"), "CI installs Chromium, see .ci/run"
        pytest.skip("no Chromium is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
