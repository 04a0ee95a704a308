"""Rules that raise alerts: what a rule says, and reading rules from TOML."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from typing import Annotated, Any, Final, Literal

import msgspec

from audit_async._query.audit_query import AuditQuery
from audit_async.config.toml_file import read_toml
from audit_async.config.wording import brief, naming, refuse_unknown, shown
from audit_async.delivery.query_tables import query_of
from audit_async.errors import ConfigError

__all__ = ["AlertRule", "read_rules", "starter_rules", "starter_rules_text"]

_DAY_S: Final = 86_400
#: So many rules may be in one file: each is put to every record whose type it names.
_MOST_RULES: Final = 500
_MOST_MEMBERS: Final = 4

_Seconds = Annotated[int, msgspec.Meta(ge=1, le=7 * _DAY_S)]


class AlertRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When an alert is raised: so many records that a query wants, within a time; or none of them for a time.

    Args:
        name: The rule's name, in lower-case letters, digits and hyphens; a rule with another name is another rule.
        reason: Why somebody should look, for whoever gets the alert.
        match: The records that count: queries in the terms of `AuditQuery`, of which a record fulfils at least one.
        severity: How bad it is.
        threshold: How many records raise an alert.
        window_s: Within how many seconds; required if `threshold` is more than 1.
        group_by: Members of the record, such as `event.ip`, that are counted apart: five failures of one address, not
            of all together. A record without one of them counts with others that lack it.
        per_log: Count the records of each log apart, not those of all logs together.
        distinct: A member whose different values are counted instead of the records.
        cool_down_s: For how many seconds after an alert the rule raises no further one of the same group; what it would
            have raised is counted in the next one.
        silence_s: Raise an alert if a log has had no such record for so many seconds. It has to have had one before,
            and not to have been closed since.
        max_groups: How many groups are counted at a time. The records of further ones are counted together, and an
            alert says so.

    Raises:
        ConfigError: If the parts contradict each other, or a query makes no sense.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,63}$")]
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
    match: list[dict[str, Any]]
    severity: Literal["info", "low", "medium", "high", "critical"] = "high"
    threshold: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
    window_s: _Seconds | None = None
    group_by: Annotated[list[Annotated[str, msgspec.Meta(min_length=1)]], msgspec.Meta(max_length=_MOST_MEMBERS)] = []
    per_log: bool = False
    distinct: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    cool_down_s: Annotated[int, msgspec.Meta(ge=0, le=7 * _DAY_S)] = 300
    silence_s: _Seconds | None = None
    max_groups: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10_000

    def __post_init__(self) -> None:
        where = f"rule.{self.name}"
        if not self.match:
            raise ConfigError(f"{where}.match", "it has no query; to count every record, give an empty table: {}")
        if self.silence_s is not None:
            for field in ("window_s", "distinct"):
                if getattr(self, field) is not None:
                    raise ConfigError(f"{where}.{field}", "a rule with silence_s counts nothing; leave it out")
            if self.threshold != 1 or self.group_by or self.per_log:
                raise ConfigError(
                    f"{where}.silence_s", "silence is that of each log; leave threshold, group_by and per_log out"
                )
        elif self.threshold > 1 and self.window_s is None:
            raise ConfigError(f"{where}.window_s", f"say within how many seconds the {self.threshold} records come")
        elif self.distinct is not None and self.threshold == 1:
            raise ConfigError(f"{where}.distinct", "one value is always different; give a threshold of 2 or more")
        self.queries()

    def queries(self) -> list[AuditQuery]:
        """Return the queries, a record has to fulfil one of; raises `ConfigError`."""
        return [query_of(f"rule.{self.name}.match", table) for table in self.match]

    def digest(self) -> str:
        """Return a hash of what the rule decides by: two forms of a rule that decide differently have two."""
        # Without what is left at its default: with a key that a later release adds, a rule is still the same.
        defaults = AlertRule(name="x", reason="x", match=[{}])
        given = {
            name: value for name in self.__struct_fields__ if (value := getattr(self, name)) != getattr(defaults, name)
        }
        return sha256(msgspec.json.encode(given, order="deterministic")).hexdigest()[:16]


def read_rules(path: str | os.PathLike[str]) -> list[AlertRule]:
    """Return the rules of a TOML file, in its order.

    Args:
        path: A file with `[[rule]]` tables.

    Raises:
        ConfigError: The file can't be read, or a rule is wrong; it names the file, the rule and the key, and the places
            of all further mistakes.
    """
    source = os.fspath(path)
    table = read_toml(path)
    with naming(lambda field: "" if field == source else source):
        return _rules(table, source)


def starter_rules_text() -> str:
    """Return the starter set as TOML, with the reason for each rule."""
    return files("audit_async.delivery.alerts").joinpath("starter_rules.toml").read_text(encoding="utf-8")


def starter_rules() -> list[AlertRule]:
    """Return the rules that come with the library."""
    return _rules(tomllib.loads(starter_rules_text()), "starter_rules.toml")


def _rules(table: Mapping[str, object], source: str) -> list[AlertRule]:
    refuse_unknown(table, ("rule",), "", "table")
    tables = table.get("rule")
    if not isinstance(tables, list) or not tables or not all(isinstance(one, dict) for one in tables):
        raise ConfigError(source, "it has no rules; write each as a table [[rule]]")
    if len(tables) > _MOST_RULES:
        raise ConfigError(source, f"it has {len(tables)} rules, and {_MOST_RULES} are allowed")
    rules: list[AlertRule] = []
    wrong: list[ConfigError] = []
    for position, one in enumerate(tables, 1):
        try:
            rules.append(_rule(one, position))
        except ConfigError as error:
            wrong.append(error)
    names = [rule.name for rule in rules]
    wrong += [
        ConfigError(f"rule.{name}", "there are two rules with this name; each needs its own")
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    if len(wrong) > 1:
        others = ", ".join(error.field for error in wrong[1:])
        raise ConfigError(wrong[0].field, f"{wrong[0].reason}; wrong as well: {others}")
    if wrong:
        raise wrong[0]
    return rules


_WEEK: Final = f"from 1 to {7 * _DAY_S:,}"
#: What each key may be, as an error says it.
_ALLOWED: Final = {
    "name": "lower-case letters, digits and hyphens, a letter first, 64 at most",
    "reason": "a text of up to 1000 characters: why somebody should look",
    "match": 'a table with a query, such as { event_types = ["auth.failure"] }, or a list of such tables',
    "severity": "info, low, medium, high or critical",
    "threshold": "a whole number from 1 to 10,000",
    "window_s": f"a whole number of seconds {_WEEK}",
    "group_by": f'a member\'s path, such as "event.ip", or a list of up to {_MOST_MEMBERS}',
    "per_log": "true or false",
    "distinct": 'a member\'s path, such as "event.attempted_user"',
    "cool_down_s": f"a whole number of seconds, 0 or {_WEEK}",
    "silence_s": f"a whole number of seconds {_WEEK}",
    "max_groups": "a whole number from 1 to 1,000,000",
}


def _rule(table: Mapping[str, object], position: int) -> AlertRule:
    name = table.get("name")
    where = f"rule.{brief(name)}" if isinstance(name, str) else f"rule number {position}"
    members = dict(table)
    refuse_unknown(members, AlertRule.__struct_fields__, f"{where}.")
    for field in ("name", "reason", "match"):
        if field not in members:
            raise ConfigError(f"{where}.{field}", f"missing; give {_ALLOWED[field]}")
    for field in ("match", "group_by"):
        if isinstance(members.get(field), dict | str):
            members[field] = [members[field]]
    try:
        return msgspec.convert(members, AlertRule)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, ConfigError):
            raise error.__cause__ from None
        field = str(error).partition(" - at `$.")[2].partition("[")[0].rstrip("`")
        given = shown(table.get(field))
        raise ConfigError(f"{where}.{field}", f"{given} is not allowed; allowed: {_ALLOWED[field]}") from None
