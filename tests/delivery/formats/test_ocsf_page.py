"""The page of OCSF is what the code does."""

from __future__ import annotations

import re

from audit_async.delivery.siem_formats.cef_format import CefFormat
from audit_async.delivery.siem_formats.ocsf_classes import SEVERITIES
from audit_async.delivery.siem_formats.ocsf_mapping import BUILT_IN
from site_build.ocsf_page import PAGE, page
from tests.delivery.formats.recorded_lines import deliverable, line_of
from tests.delivery.formats.test_cef import parse


def test_the_page_is_up_to_date() -> None:
    """`python -m site_build.ocsf_page` makes it again."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_the_grades_of_severity_are_those_of_the_page() -> None:
    """The numbers in OCSF and CEF, the examples, and the words of a `severity`; no type has another grade."""
    text = PAGE.read_text(encoding="utf-8").partition("## Severity")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \| [^|]* \| ([^|]*) \|$", text, re.MULTILINE)
    assert [name for name, *_ in rows] == ["Informational", "Low", "Medium", "High", "Critical"]
    for name, ocsf, cef, examples in rows:
        assert SEVERITIES[int(ocsf)] == name
        types = [one for one in re.findall(r"`([\w.]+)`", examples) if one in BUILT_IN]
        assert types or name == "Critical"
        for event_type in types:
            assert BUILT_IN[event_type].severity == int(ocsf)
            assert parse(CefFormat().encode(deliverable(line_of({"event_type": event_type}))))[0][6] == cef
    assert {mapping.severity for mapping in BUILT_IN.values()} == {1, 2, 3, 4}
    words = {"debug": "1", "notice": "1", "low": "3", "warning": "5", "high": "8", "error": "8", "critical": "10"}
    for word, cef in words.items():
        assert f"`{word}`" in text
        line = line_of({"event_type": "seal.verification_failed", "severity": word})
        assert parse(CefFormat().encode(deliverable(line)))[0][6] == cef
