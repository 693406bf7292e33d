"""The one test function that the plugin multiplies: `--pyargs stateregistry_conformance.suite`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stateregistry_conformance.verdict import Status

if TYPE_CHECKING:
    from stateregistry_conformance.check import Check
    from stateregistry_conformance.session import Session


def test_conforms(sr_session: Session, sr_check: Check) -> None:
    """Every requirement that the check decides is met; where none of them binds the adapter, the test is skipped."""
    rows = sr_session.run(sr_check)
    wrong = [row for row in rows if row.status not in {Status.PASS, Status.NOT_APPLICABLE}]
    if wrong:
        told = "\n".join(
            f"{row.requirement or 'the harness'} {row.status.value}: {row.detail}\n{row.repro}" for row in wrong
        )
        pytest.fail(told, pytrace=False)
    if all(row.status is Status.NOT_APPLICABLE for row in rows):
        pytest.skip("; ".join(f"{row.requirement or 'the harness'}: {row.detail}" for row in rows))
