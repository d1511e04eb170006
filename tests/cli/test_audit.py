"""`headrace audit verify` on real logs."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from headrace.cli.group import headrace
from headrace.security.audit import Audit, Entry


@pytest.fixture
def log(tmp_path):
    audit = Audit(tmp_path / "audit.jsonl")
    audit.open()
    for number in range(3):
        audit.add(
            Entry(
                time=1.0,
                caller="c",
                role="r",
                model="m",
                version="",
                id=str(number),
                inputs="",
                outputs="",
                status="ok",
            )
        )
    audit.close()
    return audit.path


def test_a_log_that_holds(log):
    """A whole log exits 0 and prints the last hash, in text and as JSON."""
    last = json.loads(log.read_text().splitlines()[-1])["hash"]
    text = CliRunner().invoke(headrace, ["audit", "verify", str(log)])
    assert (text.exit_code, "3 lines hold" in text.output, last in text.output) == (0, True, True)
    found = json.loads(CliRunner().invoke(headrace, ["audit", "verify", str(log), "--json"]).output)
    assert found == {"lines": 3, "last": last, "first_bad": None, "problem": ""}


def test_a_log_that_was_changed(log):
    """A changed line is named, and the exit code is 1."""
    log.write_text(log.read_text().replace('"id":"1"', '"id":"9"'))
    result = CliRunner().invoke(headrace, ["audit", "verify", str(log)])
    assert (result.exit_code, "line 2 does not hold: it was changed" in result.output) == (1, True)
