"""Putting rules to records: which alerts they raise, and what is counted meanwhile.

No clock and no file: what is counted follows from the records, and the time of silence is given. A record that was
looked at is not looked at again, so a replay raises nothing that was raised before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final, NamedTuple

from audit_async._query.audit_query import AuditQuery
from audit_async._query.matching import Filter
from audit_async._query.recorded_members import MemberPath, Said, as_json_text
from audit_async.delivery.alerts.alert_rules import AlertRule
from audit_async.delivery.alerts.alert_state import JournalEntry, LogState, Snapshot
from audit_async.delivery.alerts.alert_windows import OTHERS, Hit, Raised, RuleWindow
from audit_async.events import AuditAlertRaised
from audit_async.events.recorded import recorded_time

__all__ = ["AlertEngine", "Looked", "ObservedRecord"]

_CLOSED: Final = "audit.log_closed"
#: A member's text that is longer is shortened, and distinguished by its hash.
_MAX_MEMBER: Final = 128
_SHOWN: Final = 96
_ABSENT: Final = ""
_SEPARATOR: Final = "\x1f"


class ObservedRecord(NamedTuple):
    """A record, as far as rules look at it."""

    seq: int
    audit_id: str
    at: str  #: the record's timestamp
    said: Said


class Looked(NamedTuple):
    """What came of records of one log."""

    alerts: list[AuditAlertRaised]
    entry: JournalEntry | None  #: what is to be stored; None if nothing has changed that a restart needs


class _PreparedRule:
    """A rule, ready to be put to many records."""

    def __init__(self, rule: AlertRule) -> None:
        self.rule: Final = rule
        self.digest: Final = rule.digest()
        self.filters: Final = [(query, Filter(query)) for query in rule.queries()]
        self.group_by: Final = [MemberPath.parse(path) for path in rule.group_by]
        self.distinct: Final = None if rule.distinct is None else MemberPath.parse(rule.distinct)

    def filters_for(self, event_type: str) -> tuple[Filter, ...] | None:
        """Return what records of a type have to fulfil one of, nothing if the type is enough; None if none counts."""
        wanted = [query for query, of_query in self.filters if of_query.wants_type(event_type)]
        if any(query == AuditQuery(event_types=query.event_types) for query in wanted):
            return ()
        return tuple(Filter(query) for query in wanted) or None

    def group_of(self, members: _Members, log: str) -> str:
        group = _SEPARATOR.join([members.text(path) for path in self.group_by])
        return f"{log}{_SEPARATOR}{group}" if self.rule.per_log else group

    def members_of(self, group: str) -> dict[str, str] | None:
        """Return the members that make a group, by path; None if the rule has no groups."""
        if not self.group_by:
            return None
        if group == OTHERS:
            return dict.fromkeys(self.rule.group_by, OTHERS)
        members = group.split(_SEPARATOR)
        return dict(zip(self.rule.group_by, members[1:] if self.rule.per_log else members, strict=True))


class _Members:
    """The texts of a record's members, each found once for all rules."""

    def __init__(self, said: Said) -> None:
        self._said: Final = said
        self._texts: Final[dict[MemberPath, str]] = {}

    def text(self, path: MemberPath) -> str:
        """Return the text of the first value at a path, of bounded length; empty if there is none."""
        text = self._texts.get(path)
        if text is None:
            text = self._texts[path] = _bounded(_first_text(path, self._said))
        return text


def _first_text(path: MemberPath, said: Said) -> str:
    return next((text for value in path.values(said) if (text := as_json_text(value)) is not None), _ABSENT)


def _bounded(text: str) -> str:
    if text.startswith("sealed:"):
        # Each sealing of one text is another ciphertext, and the key is that of its subject and day.
        return ":".join(text.split(":", 3)[:3])
    text = text.replace(_SEPARATOR, " ")
    if len(text) <= _MAX_MEMBER:
        return text
    return f"{text[:_SHOWN]}…{sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


class AlertEngine:
    """Rules, and what they have counted. For one thread at a time.

    Args:
        rules: The rules.
        max_age: Records of a log that was never looked at before are not counted if they are older than this, so
            that a trail of several years does not raise alarms about its past.
    """

    def __init__(self, rules: Iterable[AlertRule], *, max_age: timedelta = timedelta(days=1)) -> None:
        self._rules: Final = {rule.name: _PreparedRule(rule) for rule in rules}
        self._max_age: Final = max_age
        self._logs: dict[str, LogState] = {}
        self._windows: dict[str, RuleWindow] = {
            name: RuleWindow(digest=prepared.digest) for name, prepared in self._rules.items()
        }
        self._by_type: dict[str, tuple[tuple[_PreparedRule, tuple[Filter, ...]], ...]] = {}

    def __repr__(self) -> str:
        return f"<AlertEngine rules={len(self._rules)} logs={len(self._logs)}>"

    def look(self, log_id: str, log: str, records: Sequence[ObservedRecord], now: datetime) -> Looked:
        """Put the rules to records of one log, in their order.

        Args:
            log_id: The log's id.
            log: The service and the instance.
            records: The records; those that were looked at before are passed over.
            now: The time, aware.

        Returns:
            The alerts, and what a restart has to know.
        """
        state = self._logs.get(log_id)
        is_new = state is None
        if state is None:
            state = self._logs[log_id] = LogState(log=log)
        alerts: list[AuditAlertRaised] = []
        hits: list[Hit] = []
        watched = set(state.last_ms)
        silent = list(state.silent)
        was_live = state.is_live
        oldest = recorded_time(now - self._max_age)
        now_ms = _milliseconds(now)
        for record in records:
            if record.seq <= state.seq:
                continue
            state.seq = record.seq
            if not state.is_live and record.at < oldest:
                continue
            state.is_live = True
            for hit in self._hits(state, record, now_ms):
                hits.append(hit)
                alerts.extend(self._raised(log_id, log, record, hit))
        changed = is_new or bool(hits) or was_live != state.is_live
        changed = changed or watched != set(state.last_ms) or silent != state.silent
        return Looked(alerts, JournalEntry(log_id=log_id, state=state, hits=hits) if changed else None)

    def silent(self, now: datetime, since: datetime) -> Iterator[Looked]:
        """Yield for each log what its silence raises, once for each time that it falls silent.

        Args:
            now: The time, aware.
            since: Since when records are received; what is older than that is no silence, they may be on their way.
        """
        now_ms, since_ms = _milliseconds(now), _milliseconds(since)
        for log_id, state in self._logs.items():
            alerts = []
            for name, last_ms in state.last_ms.items():
                prepared = self._rules.get(name)
                if prepared is None or prepared.rule.silence_s is None or name in state.silent:
                    continue
                if now_ms - max(last_ms, since_ms) < prepared.rule.silence_s * 1000:
                    continue
                state.silent.append(name)
                raised = Raised(_ABSENT, 0, last_ms, now_ms, kind="silence")
                alerts.append(_event(prepared, raised, (log_id, state.log)))
            if alerts:
                yield Looked(alerts, JournalEntry(log_id=log_id, state=state))

    def replay(self, entry: JournalEntry) -> None:
        """Count again what a journal says was counted; what it raised was recorded then.

        An entry may be there several times, or be in the snapshot as well: of a batch that was sent again since the
        snapshot could not be stored. It counts once.
        """
        known = self._logs.get(entry.log_id)
        self._logs[entry.log_id] = entry.state
        if known is not None and known.seq >= entry.state.seq:
            return
        for hit in entry.hits:
            prepared = self._rules.get(hit.rule)
            if prepared is not None and prepared.rule.silence_s is None:
                for _ in self._windows[hit.rule].count(prepared.rule, hit):
                    pass

    def restore(self, snapshot: Snapshot) -> None:
        """Take over a snapshot. A rule that was changed since counts from nothing; the logs' places stay."""
        self._logs = snapshot.logs
        for name, window in snapshot.windows.items():
            prepared = self._rules.get(name)
            if prepared is not None and prepared.digest == window.digest:
                self._windows[name] = window

    def snapshot(self) -> Snapshot:
        """Return everything that is known; not a copy."""
        return Snapshot(logs=self._logs, windows=self._windows)

    def _hits(self, state: LogState, record: ObservedRecord, now_ms: int) -> Iterator[Hit]:
        event_type = record.said.event.get("event_type")
        if event_type == _CLOSED:  # in order: what is closed may be silent
            state.last_ms.clear()
            state.silent.clear()
        concerned = self._for_type(event_type if isinstance(event_type, str) else "")
        if not concerned:
            return
        # A host whose clock is ahead, or was set so, must not make the records of all others old.
        at_ms = min(_milliseconds(datetime.fromisoformat(record.at)), now_ms)
        members = _Members(record.said)
        for prepared, filters in concerned:
            if filters and not any(one.wants_said(record.said) for one in filters):
                continue
            name = prepared.rule.name
            if prepared.rule.silence_s is not None:
                if event_type != _CLOSED:
                    state.last_ms[name] = at_ms
                    if name in state.silent:
                        state.silent.remove(name)
                continue
            value = None if prepared.distinct is None else members.text(prepared.distinct)
            yield Hit(name, prepared.group_of(members, state.log), at_ms, value)

    def _for_type(self, event_type: str) -> tuple[tuple[_PreparedRule, tuple[Filter, ...]], ...]:
        """Return the rules that count records of a type, each with what such a record has to fulfil one of."""
        found = self._by_type.get(event_type)
        if found is None:
            found = tuple(
                (prepared, filters)
                for prepared in self._rules.values()
                if (filters := prepared.filters_for(event_type)) is not None
            )
            if len(self._by_type) < _MOST_TYPES:
                self._by_type[event_type] = found
        return found

    def _raised(self, log_id: str, log: str, record: ObservedRecord, hit: Hit) -> Iterator[AuditAlertRaised]:
        prepared = self._rules[hit.rule]
        for raised in self._windows[hit.rule].count(prepared.rule, hit):
            yield _event(prepared, raised, (log_id, log), record)


def _event(
    prepared: _PreparedRule, raised: Raised, log: tuple[str, str], record: ObservedRecord | None = None
) -> AuditAlertRaised:
    rule = prepared.rule
    log_id, log_name = log
    # Of the record that reached the threshold, so it is the same if the records are counted again after a crash.
    point = str(raised.first_ms if record is None else record.seq)
    parts = (rule.name, prepared.digest, raised.kind, log_id, point, raised.group)
    return AuditAlertRaised(
        alert_id=sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16],
        rule=rule.name,
        kind=raised.kind,
        severity=rule.severity,
        reason=rule.reason,
        log=log_name,
        log_id=log_id,
        count=raised.records,
        first_at=_moment(raised.first_ms),
        last_at=_moment(raised.last_ms),
        window_s=rule.silence_s if raised.kind == "silence" else rule.window_s,
        group=prepared.members_of(raised.group) if raised.kind == "match" else None,
        seq=None if record is None else record.seq,
        audit_id=None if record is None else record.audit_id,
        suppressed=raised.suppressed or None,
    )


#: Types whose rules are remembered.
_MOST_TYPES: Final = 4096


def _milliseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def _moment(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
