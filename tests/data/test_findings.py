import logging

import pytest

from openglip.data.findings import Findings, collector
from openglip.errors import DataError


def test_notes_are_counted_and_faults_are_listed():
    findings = Findings()
    findings.add("crowd", "a.json", 1, "a crowd")
    findings.add("malformed", "a.json", 2, "no bbox", times=3)
    assert [(f.kind, f.id) for f in findings.items] == [("malformed", 2)]
    assert findings.counts == {"crowd": 1, "malformed": 3}


def test_a_collector_that_nobody_reads_logs_its_counts(caplog):
    given = Findings()
    assert collector(given) is given
    with caplog.at_level(logging.INFO):
        given.done("a.json")
        assert not caplog.text
        findings = collector(None)
        findings.add("crowd", "a.json", 1, "a crowd")
        findings.done("a.json")
        assert "a.json: left out: 1 crowd" in caplog.text
        findings.add("malformed", "a.json", 2, "no bbox")
        findings.done("a.json")
    assert "a.json: left out or changed: 1 malformed" in caplog.text
    assert findings.items == []


def test_fatal_kinds_are_errors():
    findings = Findings(fatal=("malformed",))
    findings.add("crowd", "a.json", 1, "a crowd")
    with pytest.raises(DataError, match=r"a\.json, id 2: no bbox"):
        findings.add("malformed", "a.json", 2, "no bbox")
