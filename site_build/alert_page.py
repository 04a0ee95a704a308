"""Write the table of docs/alerts.md, the starter set of rules: `python -m site_build.alert_page`.

What the page says of a rule is what the packaged rule says; a test fails if it is out of date.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from audit_async.delivery.alerts import AlertRule, starter_rules

PAGE: Final = Path(__file__).parents[1] / "docs" / "alerts.md"
_MARK: Final = "<!-- The table is made by `python -m site_build.alert_page`. -->\n"


def page() -> str:
    """Return the page: what is written before the mark, and the table."""
    opening = PAGE.read_text(encoding="utf-8").partition(_MARK)[0]
    return "\n".join([opening + _MARK, *_rows()]) + "\n"


def _rows() -> Iterator[str]:
    yield "| rule | severity | raised by | why |"
    yield "| --- | --- | --- | --- |"
    for rule in starter_rules():
        yield f"| `{rule.name}` | {rule.severity} | {_what(rule)} | {rule.reason} |"


def _what(rule: AlertRule) -> str:
    queries = rule.queries()
    types = ", ".join(f"`{event_type}`" for query in queries for event_type in query.event_types) or "any record"
    if rule.silence_s is not None:
        return f"none for {rule.silence_s} s of: {types}"
    counted = f"{rule.threshold} times {types}" if rule.threshold > 1 else types
    if rule.distinct is not None:
        counted = f"{types} with {rule.threshold} different `{rule.distinct}`"
    within = f" within {rule.window_s} s" if rule.window_s is not None else ""
    apart = f", for each `{'`, `'.join(rule.group_by)}`" if rule.group_by else ""
    each_log = ", for each log" if rule.per_log else ""
    return f"{counted}{within}{apart}{each_log}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
