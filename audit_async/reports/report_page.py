"""The report as a page: one HTML file that needs nothing else, reads well on a screen and prints as a document.

It has no script and makes no request; a content security policy in it forbids both.
"""

from __future__ import annotations

import base64
from hashlib import sha256
from importlib.resources import files
from urllib.parse import quote

from audit_async._sanitize.readable_text import count_of, visible
from audit_async.reports.page_elements import Html, element, joined, table
from audit_async.reports.report_document import ControlReport, Example, Report, TopicReport
from audit_async.reports.topics import VERIFIED_TOPICS

__all__ = ["render_page"]


def render_page(report: Report, json_sha256: str) -> bytes:
    """Return the page of a report.

    Args:
        report: What it shows.
        json_sha256: The SHA-256 of the machine-readable report, which the page names.
    """
    style = (files("audit_async.reports") / "report_page.css").read_text(encoding="utf-8") + _footer(
        report, json_sha256
    )
    style_hash = base64.b64encode(sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{style_hash}'; base-uri 'none'; form-action 'none'"
    title = f"{report.framework.name}: what the audit trail shows"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        Html(f"<style>{style}</style>"),
    )
    body = element(
        "body",
        _cover(report, title),
        element(
            "main",
            _glance(report),
            _overview(report),
            _controls(report),
            _topics(report),
            _findings(report),
            _logs(report),
            _limits(report),
            _checking(report, json_sha256),
        ),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n".encode()


def _footer(report: Report, json_sha256: str) -> str:
    """Return the style of what is printed on each page: a sheet that gets lost says which report it is of."""
    made = f"Made {_time(report.made.at)}, JSON SHA-256 {json_sha256[:16]}"
    text = f"{report.framework.name}: what the audit trail shows. {made}"
    return f'@page {{ @bottom-left {{ content: "{_css_text(text)}"; }} }}\n'


def _css_text(text: str) -> str:
    """Return a text for a string of CSS, in which only letters and digits of ASCII are as they are."""
    return "".join(
        letter if letter.isascii() and letter.isalnum() else f"\\{ord(letter):06x}" for letter in visible(text)
    )


# -- the first page -----------------------------------------------------------------------------------------------


def _cover(report: Report, title: str) -> Html:
    span = f", {_time(report.first_record)} to {_time(report.last_record)}" if report.records else ""
    facts = [
        ("Framework", f"{report.framework.name}, {report.framework.version}"),
        ("Period", f"{_moment(report.period.since) or 'from the first record'} to {_until(report)}"),
        ("Trail", f"{report.made.place} ({count_of(len(report.logs), 'log')})"),
        ("Records in the period", f"{report.records:,}{span}"),
        ("Made", f"{_time(report.made.at)} by {report.made.by}, with audit-async {report.made.library_version}"),
    ]
    if report.made.unsealed:
        facts.append(
            ("Confidential", "What is sealed in the trail is in the clear here; no erasure reaches this file.")
        )
    return element(
        "header",
        element("p", "Audit trail report", class_="kind"),
        element("h1", title),
        _pairs(facts),
        element("p", report.framework.about, class_="about"),
    )


def _until(report: Report) -> str:
    end = _moment(report.period.until)
    return f"{end} (not included)" if end else f"the time of the report, {_time(report.made.at)}"


def _moment(text: str | None) -> str:
    """Return a limit of the period, to its last digit."""
    return text.replace("T", " ").replace("Z", " UTC") if text else ""


def _time(text: str | None) -> str:
    return text[:19].replace("T", " ") + " UTC" if text else ""


def _glance(report: Report) -> Html:
    verified = report.verification
    state = "good" if verified.valid else "bad"
    verdict = "The chain of records holds"
    if not verified.valid:
        verdict = "Something is not as it was written" if verified.findings else "Not all of the trail can be read"
    lines = [element("p", verdict, class_=f"verdict {state}")]
    if verified.valid:
        integrity = next(topic for topic in report.topics if topic.name == "integrity")
        lines.append(element("p", integrity.shows[0]))
    if report.not_counted:
        lines += [
            element("h3", "What is not counted in this report"),
            element("ul", *[element("li", text) for text in report.not_counted], class_="concerns"),
        ]
    if report.concerns:
        lines += [
            element("h3", "What to look at first"),
            element("ul", *[element("li", text) for text in report.concerns], class_="concerns"),
        ]
    else:
        counted = "what was counted of the period" if report.not_counted else "the period"
        text = f"Nothing in {counted} needs attention by what the trail records about itself."
        lines.append(element("p", text))
    return element("section", element("h2", "At a glance"), *lines, class_=f"glance {state}")


def _overview(report: Report) -> Html:
    rows: list[list[str]] = [
        [
            element("a", control.id, href=f"#control-{number}"),
            control.title,
            f"{control.records:,}" if control.event_types else "-",
            _state_of(control, report),
        ]
        for number, control in enumerate(report.controls, start=1)
    ]
    return element(
        "section",
        element("h2", "Controls"),
        table(["Control", "About", "Records", "What the trail says"], rows, class_="overview"),
        element("p", f"Ids: {report.framework.source}. The wording is that of this project.", class_="small"),
    )


def _state_of(control: ControlReport, report: Report) -> Html:
    amiss = [topic.title for topic in report.topics if topic.name in control.topics and topic.concerns]
    if amiss:
        return element("span", f"attention: {', '.join(amiss)}", class_="state bad")
    topics = [topic for topic in report.topics if topic.name in control.topics]
    if not control.records and not any(topic.records or topic.name in VERIFIED_TOPICS for topic in topics):
        nothing = "nothing in what was read" if report.not_counted else "nothing recorded"
        return element("span", nothing, class_="state none")
    return element("span", "evidence", class_="state good")


# -- control by control -------------------------------------------------------------------------------------------


def _controls(report: Report) -> Html:
    shown = [_control(number, control, report) for number, control in enumerate(report.controls, start=1)]
    return element("section", element("h2", "Control by control"), *shown, class_="controls")


def _control(number: int, control: ControlReport, report: Report) -> Html:
    types: Html | None = None
    if control.types:
        more = [[f"{count_of(control.more_types, 'more type')}", "", "", ""]] if control.more_types else []
        rows = [_type_row(seen.event_type, seen.records, seen.failures, seen.last) for seen in control.types]
        types = table(["Event type", "Records", "Failed", "Newest"], rows + more, class_="numbers")
    return element(
        "article",
        element("h3", element("span", control.id, class_="id"), " ", control.title),
        element("p", control.asks, class_="asks"),
        element("h4", "What the trail shows"),
        element("ul", *[element("li", text) for text in control.shows]),
        types,
        _examples(control.examples, report, "Examples") if control.examples else None,
        element("h4", "What it can't show"),
        element("ul", *[element("li", text) for text in control.cannot_show], class_="limits"),
        id=f"control-{number}",
    )


def _type_row(event_type: str, records: int, failures: int, last: str) -> list[str]:
    return [element("code", event_type), f"{records:,}", f"{failures:,}" if failures else "-", _time(last)]


def _examples(examples: tuple[Example, ...], report: Report, title: str) -> Html:
    rows: list[list[str]] = []
    for example in examples:
        what = [part for part in (example.actor, example.target, example.outcome) if part]
        said = joined(
            element("code", example.event_type), " ", element("strong", " · ".join(what)), " ",
            element("span", example.details, class_="details"),
        )  # fmt: skip
        rows.append([_time(example.timestamp), joined(said, _proof(example, report))])
    return joined(element("h4", title), table(["Time", "Record"], rows, class_="examples"))


def _proof(example: Example, report: Report) -> Html:
    """Return how a record is found and proven: log, sequence number, audit_id, hash, and a link to a viewer."""
    named = f"{example.log} seq {example.seq} · {example.audit_id} · SHA-256 {example.hash}"
    if report.made.viewer_url is None:
        return element("div", named, class_="proof")
    url = f"{report.made.viewer_url}/logs/{quote(example.log)}/records/{example.seq}"
    links = joined(" · ", element("a", "record", href=url), " · ", element("a", "proof", href=f"{url}/proof"))
    return element("div", named, links, class_="proof")


# -- what the trail says about itself -----------------------------------------------------------------------------


def _topics(report: Report) -> Html:
    return element(
        "section",
        element("h2", "What the trail says about itself"),
        *[_topic(topic, report) for topic in report.topics],
        class_="topics",
    )


def _topic(topic: TopicReport, report: Report) -> Html:
    entries: Html | None = None
    if topic.entries:
        title = "Records" if not topic.more_entries else f"Records (the newest; {topic.more_entries:,} more)"
        entries = _examples(topic.entries, report, title)
    return element(
        "article",
        element("h3", topic.title, element("span", "attention", class_="state bad") if topic.concerns else None),
        element("ul", *[element("li", text) for text in topic.shows]),
        entries,
        element("p", f"Not shown: {topic.cannot_show}", class_="limits"),
        id=f"topic-{topic.name}",
    )


def _findings(report: Report) -> Html | None:
    verified = report.verification
    if not verified.findings and not verified.unreadable:
        return None
    rows: list[list[str]] = [
        [found.log, found.kind, found.segment or "", "" if found.seq is None else str(found.seq), found.reason]
        for found in verified.findings
    ]
    rows += [[piece.log, "unreadable", piece.file, "", piece.reason] for piece in verified.unreadable]
    left_out = verified.more_findings + verified.more_unreadable
    more = f"{left_out:,} more; audit-async verify --json has them all." if left_out else ""
    return element(
        "section",
        element("h2", "Findings of the verification"),
        table(["Log", "Kind", "File", "Seq", "What is wrong"], rows, class_="findings"),
        element("p", more) if more else None,
    )


def _logs(report: Report) -> Html:
    rows: list[list[str]] = []
    for log in report.logs:
        head = "none" if log.head_seq is None else f"{log.head_seq}:{log.head_hash}"
        span = f"{_time(log.first_timestamp)} to {_time(log.last_timestamp)}" if log.first_timestamp else "empty"
        holds = "unknown" if log.holds_in_force is None else str(log.holds_in_force)
        rows.append(
            [
                joined(element("strong", log.log), element("div", f"log_id {log.log_id}", class_="proof")),
                joined(span, element("div", f"head {head}", class_="proof")),
                f"{log.records_in_period:,}",
                f"{log.verified_records:,}",
                f"{log.dropped:,}",
                holds,
            ]
        )
    head_row = ["Log", "Records from, to, and head", "In the period", "Verified", "Refused", "Holds now"]
    logs_of = dict[str, list[str]]()  # what applies to several logs is said once
    for note in report.verification.notes:
        logs_of.setdefault(note.text, []).append(note.log)
    notes = [element("li", f"{', '.join(names)}: {text}.") for text, names in logs_of.items()]
    if report.verification.more_notes:
        notes.append(element("li", f"{report.verification.more_notes:,} more; audit-async verify --json has them all."))
    return element(
        "section",
        element("h2", "Logs"),
        table(head_row, rows),
        element("p", "Keep the heads elsewhere: with them the next verification sees a log that was cut or rewritten."),
        joined(element("h3", "Notes of the verification"), element("ul", *notes)) if notes else None,
    )


def _limits(report: Report) -> Html:
    return element(
        "section",
        element("h2", "What this report can't show"),
        element("ul", *[element("li", text) for text in report.cannot_show], class_="limits"),
    )


def _checking(report: Report, json_sha256: str) -> Html:
    steps = [
        "This page and the file of the same name that ends in .json say the same: audit-async report --check FILE.",
        "If there is a file with the ending .note, the log's key has signed both; give the same command --vkey.",
        f"A record is shown by audit-async show AUDIT_ID {report.made.place}, and its hash must be the one here.",
    ]
    return element(
        "section",
        element("h2", "How to check this report"),
        element("ol", *[element("li", step) for step in steps]),
        _pairs([("SHA-256 of the JSON", json_sha256)]),
        class_="checking",
    )


def _pairs(pairs: list[tuple[str, str]]) -> Html:
    return element("dl", *[joined(element("dt", name), element("dd", text)) for name, text in pairs])
