"""Reports: they survive being written down, and one that was edited, cut off or made by hand is refused by name."""

from __future__ import annotations

import copy
import json
from importlib import resources
from typing import Any

import jsonschema
import pytest

from stateregistry_conformance.check import PROFILES
from stateregistry_conformance.known import Expected
from stateregistry_conformance.report import Report, ReportError, from_json, parse
from stateregistry_conformance.session import conform
from stateregistry_conformance.verdict import Row, Status

SCHEMA = json.loads(resources.files("stateregistry_conformance").joinpath("report.schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


@pytest.fixture(scope="module")
def report() -> Report:
    return conform(
        "numpy", profile=PROFILES["quick"], checks=["claims.ties", "keys.a_name_with_a_separator_is_escaped"]
    )


def test_a_report_survives_being_written_down(report, made):
    for one in (
        report,
        made(),
        made({"SR-KEY-001": Status.FAIL}),
        made(checks={"smoke.it_says_who_it_is": Status.ERROR}),
    ):
        document = one.to_json()
        again = parse(json.dumps(document))
        assert again == one
        assert [row.seconds for row in again.rows] == [row.seconds for row in one.rows]
        assert again.to_json() == document


def test_a_real_report_says_who_was_checked_by_what(report):
    header = report.to_json()["header"]
    assert header["harness"] == {
        "named": "numpy", "adapter": "numpy", "adapter_version": "0.1.0",
        "capabilities": sorted(header["harness"]["capabilities"]),
    }  # fmt: skip
    assert header["environment"]["distributions"]["numpy"]
    assert header["profile"]["selected"] == ["claims.ties", "keys.a_name_with_a_separator_is_escaped"]
    assert len(header["suite"]["digest"]) == len(header["spec"]["requirements"]) == 64


def test_the_schema_is_one_and_takes_what_we_write(report, made):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for one in (report, made(), made({"SR-KEY-001": Status.FAIL}, known=[Expected("a", "b", "c", "d")])):
        VALIDATOR.validate(one.to_json())


def test_the_digest_is_of_everything_but_the_times(made):
    document = made().to_json()
    for row in document["rows"]:
        row["seconds"] = 3.5
    assert from_json(document).conformant


# What a forger may try, by what the refusal says. Each is given a good document and changes it.
EDITS: dict[str, tuple[Any, str]] = {
    "no footer": (lambda d: d.pop("footer"), "no footer"),
    "not complete": (lambda d: d["footer"].update(complete=False), "not complete"),
    "a row is taken out": (lambda d: d["rows"].pop(5), "counts"),
    "a row is taken out, and counted": (lambda d: (d["rows"].pop(5), recount(d)), "digest"),
    "a row is put in": (lambda d: d["rows"].append(dict(d["rows"][0])), "counts"),
    "a failure becomes a pass": (lambda d: turn(d), "counts"),
    "a failure becomes a pass, and is counted": (lambda d: (turn(d), recount(d)), "requirements"),
    "a failure becomes a pass everywhere": (lambda d: (turn(d), recount(d), derive(d)), "digest"),
    "it says that it conforms": (lambda d: d.update(conformant=True), "conformant"),
    "another adapter": (lambda d: d["header"]["harness"].update(adapter="torch"), "digest"),
    "another profile": (lambda d: d["header"]["profile"].update(name="quick"), "digest"),
    "fewer capabilities": (lambda d: d["header"]["harness"].update(capabilities=[]), "digest"),
    "another digest": (lambda d: d["footer"].update(digest="0" * 64), "digest"),
    "no digest": (lambda d: d["footer"].update(digest="none"), "SHA-256"),
    "another schema": (lambda d: d.update(schema="stateregistry.conformance/2"), "schema"),
    "a status of its own": (lambda d: d["rows"][0].update(status="ok"), "'ok'"),
    "a layer of its own": (lambda d: d["rows"][0].update(layer="easy"), "'easy'"),
    "no status": (lambda d: d["rows"][0].pop("status"), "status"),
    "a level": (lambda d: d.update(level="Full"), "'level'"),
    "a level in the footer": (lambda d: d["footer"].update(level="Full"), "'level'"),
    "an empty id": (lambda d: d["rows"][-1].update(requirement=""), "empty"),
    "rows are no list": (lambda d: d.update(rows={}), "rows"),
    "a row is no object": (lambda d: d["rows"].append("pass"), "row"),
    "counts are no numbers": (lambda d: d["footer"]["counts"].update({"pass": True}), "count"),
    "negative seconds": (lambda d: d["rows"][0].update(seconds=-1), "seconds"),
    "a header without a suite": (lambda d: d["header"].pop("suite"), "suite"),
    "a header with more": (lambda d: d["header"].update(signature="x"), "'signature'"),
    "no such layer": (lambda d: d["header"]["profile"]["layers"].append("easy"), "easy"),
}


def turn(document: dict[str, Any]) -> None:
    for row in document["rows"]:
        row["status"] = "pass" if row["status"] == "fail" else row["status"]


def recount(document: dict[str, Any]) -> None:
    statuses = [row["status"] for row in document["rows"]]
    document["footer"]["rows"] = len(statuses)
    document["footer"]["counts"] = {status.value: statuses.count(status.value) for status in Status}


def derive(document: dict[str, Any]) -> None:
    document["requirements"] = {
        name: "pass" if status == "fail" else status for name, status in document["requirements"].items()
    }
    document["conformant"] = True


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_report_is_refused_and_told_why(edit, made):
    document = made({"SR-KEY-001": Status.FAIL, "SR-ALIAS-001": Status.FAIL}).to_json()
    from_json(copy.deepcopy(document))
    change, said = EDITS[edit]
    change(document)
    with pytest.raises(ReportError) as refused:
        from_json(document)
    assert said in str(refused.value)


@pytest.mark.parametrize("edit", EDITS)
def test_where_the_shape_is_wrong_the_schema_says_so_too(edit, made):
    """What follows from the rows (counts, summary, digest) is beyond a schema."""
    document = made({"SR-KEY-001": Status.FAIL, "SR-ALIAS-001": Status.FAIL}).to_json()
    change, said = EDITS[edit]
    change(document)
    derived = said in {"counts", "requirements", "conformant", "digest"}
    assert VALIDATOR.is_valid(document) is derived


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no JSON"),
        ("all 102 requirements passed. Level: Full", "no JSON"),
        ("[]", "no object"),
        ("{}", "schema"),
        ('{"schema": "a", "schema": "b"}', "given twice"),
        ('{"schema": NaN}', "NaN"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_what_is_no_report_is_refused(text, said):
    with pytest.raises(ReportError, match=said):
        parse(text)


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(ReportError):
        parse(b"\xff\xfe\x00")


def test_two_rows_that_differ_in_time_only_are_equal():
    assert Row("SR-KEY-001", "c", Status.PASS, seconds=1.0) == Row("SR-KEY-001", "c", Status.PASS, seconds=2.0)
