"""Which requests are recorded, and how much of each: rules, of which the first that matches wins."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import IntEnum
from typing import Final, Literal, NamedTuple

from audit_async.errors import ConfigError

__all__ = ["Level", "Plan", "Policy", "Rule"]

LevelName = Literal["none", "metadata", "request", "request_response"]

#: Plans that are kept by method and path. When there are more the cache begins anew, so that a client who makes up
#: paths takes no memory; longer paths are not kept at all.
_MAX_PLANS: Final = 2048
_MAX_PLANNED_PATH: Final = 256


class Level(IntEnum):
    """How much of a request is recorded."""

    NONE = 0  #: nothing
    METADATA = 1  #: who, what, when, with which result; no headers and no bodies
    REQUEST = 2  #: the query, the request's headers and the beginning of its body as well
    REQUEST_RESPONSE = 3  #: and the response's headers and the beginning of its body

    @classmethod
    def of(cls, name: Level | LevelName, field: str) -> Level:
        """Return the level of that name; raises `ConfigError` for `field` where there is none."""
        if isinstance(name, Level):
            return name
        try:
            return cls[name.upper()]
        except (KeyError, AttributeError):
            names = ", ".join(level.name.lower() for level in cls)
            raise ConfigError(field, f"must be one of {names}") from None


class Rule:
    """One line of a policy: requests with this path, method and status are recorded at this level.

    `path` is a glob over whole segments: `*` is anything within a segment, `**` any number of segments, none as well,
    so that `/static/**` is `/static`, `/static/` and everything below. It is matched against the decoded path as the
    client sent it, before any router; a slash at its end makes no difference. `methods` is one or several (a
    WebSocket's is `WEBSOCKET`), `status` a number, several, or a `range`; what is left out matches everything.

    With `security=False` a 401, 403 or 429 stays an `http.request`: for paths whose handlers record such things
    themselves, and better.

    Raises `ConfigError` for a wrong value.
    """

    __slots__ = ("_methods", "_segments", "_statuses", "level", "path", "security")

    def __init__(
        self,
        path: str = "/**",
        *,
        level: Level | LevelName,
        methods: str | Collection[str] | None = None,
        status: int | Collection[int] | None = None,
        security: bool = True,
    ) -> None:
        if not path.startswith("/"):
            raise ConfigError("rule.path", "must begin with a slash, as in /static/**")
        self.path: Final = path
        self.level: Final = Level.of(level, "rule.level")
        self.security: Final = security
        self._segments: Final = [_segment_matcher(segment) for segment in _segments_of(path)]
        if isinstance(methods, str):
            methods = (methods,)
        self._methods: Final = None if methods is None else frozenset(method.upper() for method in methods)
        statuses = (status,) if isinstance(status, int) else status
        if statuses is not None and not all(100 <= each <= 599 for each in statuses):
            raise ConfigError("rule.status", "must be between 100 and 599, as in status=404 or status=range(500, 600)")
        self._statuses: Final = None if statuses is None else frozenset(statuses)

    @property
    def is_final(self) -> bool:
        """True where the status makes no difference, so that no later rule is asked."""
        return self._statuses is None

    def matches_request(self, method: str, segments: Sequence[str]) -> bool:
        """True where method and path match."""
        return (self._methods is None or method in self._methods) and _matches(self._segments, segments)

    def matches_status(self, status: int | None) -> bool:
        """True where the status matches; one that is not known matches only a rule that asks for none."""
        return self._statuses is None or status in self._statuses


class Plan(NamedTuple):
    """What a policy says of one method and path, before the status is known."""

    capture: Level  #: the highest level that any status can lead to: what has to be kept until then
    rules: tuple[Rule, ...]  #: those that match method and path, in order; the last one matches every status

    def rule_for(self, status: int | None) -> Rule:
        """Return the first rule that matches the status."""
        rules = self.rules
        if len(rules) == 1:
            return rules[0]
        return next(rule for rule in rules if rule.matches_status(status))


class Policy:
    """An ordered set of rules, the level of what none of them matches, and what is kept of bodies.

    Bodies are kept up to `max_body_bytes` each, and only of the listed content types; `*` stands for any text within
    a type. What a browser sends as a file is none of them.
    """

    def __init__(
        self,
        rules: Iterable[Rule] = (),
        *,
        default: Level | LevelName = Level.METADATA,
        max_body_bytes: int = 4096,
        body_types: Iterable[str] = (
            "application/json",
            "application/*+json",
            "application/x-www-form-urlencoded",
            "application/xml",
            "application/*+xml",
            "text/*",
        ),
    ) -> None:
        if max_body_bytes < 0 or max_body_bytes > 16 * 1024:
            raise ConfigError("policy.max_body_bytes", "must be 0 to 16384: a trail keeps evidence, not traffic")
        self.max_body_bytes: Final = max_body_bytes
        self._rules: Final = (*rules, Rule(level=Level.of(default, "policy.default")))
        self._body_types: Final = re.compile(
            "|".join(fnmatch.translate(each.lower()) for each in body_types) or r"(?!)"
        )
        self._plans: dict[tuple[str, str], Plan] = {}
        #: Without rules of its own a policy says the same of every request.
        self._only_plan: Final = _plan_of(self._rules) if len(self._rules) == 1 else None

    def plan(self, method: str, path: str) -> Plan:
        """Return what is to be done with a request; from a cache where the same was asked before."""
        if self._only_plan is not None:
            return self._only_plan
        key = (method, path)
        plan = self._plans.get(key)
        if plan is None:
            segments = _segments_of(path)
            plan = _plan_of([rule for rule in self._rules if rule.matches_request(method, segments)])
            if len(path) <= _MAX_PLANNED_PATH:
                if len(self._plans) >= _MAX_PLANS:
                    self._plans.clear()
                self._plans[key] = plan
        return plan

    def keeps_body_of(self, content_type: str) -> bool:
        """True for a content type whose bodies are kept; parameters such as the charset are ignored."""
        return self._body_types.match(content_type.partition(";")[0].strip().lower()) is not None


def _plan_of(rules: Sequence[Rule]) -> Plan:
    """Return the plan of rules that match a request; behind the first that matches every status none is asked."""
    last = next(index for index, rule in enumerate(rules) if rule.is_final)
    asked = tuple(rules[: last + 1])
    return Plan(max(rule.level for rule in asked), asked)


#: What matches any number of segments.
_ANY_SEGMENTS: Final = None


def _segments_of(path: str) -> list[str]:
    return path.strip("/").split("/") if path.strip("/") else []


def _segment_matcher(segment: str) -> Callable[[str], object] | None:
    if segment == "**":
        return _ANY_SEGMENTS
    return re.compile(fnmatch.translate(segment)).match  # its stars don't backtrack, so a long segment costs no more


def _matches(pattern: Sequence[Callable[[str], object] | None], segments: Sequence[str]) -> bool:
    """Match segment by segment; on a mismatch the last `**` takes one segment more, which is enough for a glob.

    So the worst case is the product of both lengths, whatever a client sends.
    """
    at = here = 0
    resume_pattern = resume_here = -1
    while here < len(segments):
        matcher = pattern[at] if at < len(pattern) else _no_segment
        if matcher is _ANY_SEGMENTS:
            resume_pattern, resume_here = at, here
            at += 1
        elif matcher(segments[here]):
            at, here = at + 1, here + 1
        elif resume_pattern >= 0:
            resume_here += 1
            at, here = resume_pattern + 1, resume_here
        else:
            return False
    return all(matcher is _ANY_SEGMENTS for matcher in pattern[at:])


def _no_segment(_segment: str) -> object:
    return None
