"""Which requests are recorded, and how much of each: rules, of which the first that matches wins."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import IntEnum
from typing import Final, Literal, NamedTuple

from audit_async.errors import ConfigError

__all__ = ["Level", "LevelName", "Plan", "Policy", "Rule"]

LevelName = Literal["none", "metadata", "request", "request_response"]

#: Plans that are kept by method and path. When there are more the cache begins again, so that a client who makes up
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
        """Return the level of that name; raises `ConfigError` for `field` if there is none."""
        if isinstance(name, Level):
            return name
        try:
            return cls[name.upper()]
        except (KeyError, AttributeError):
            names = ", ".join(level.name.lower() for level in cls)
            raise ConfigError(field, f"must be one of {names}") from None


class Rule:
    """One line of a policy: requests with this path, method and status are recorded at this level.

    Never changed, so it may be shared by policies and threads.

    Args:
        path: A glob over whole segments: `*` is anything within a segment, `**` any number of segments, none as well,
            so that `/static/**` is `/static`, `/static/` and everything below. It is matched against the decoded path
            as the application sees it, before any router: without the `--root-path` of the server or the prefix of a
            mount. A slash at its end makes no difference.
        level: How much of such a request is recorded.
        methods: One method or several; a WebSocket's is `WEBSOCKET`. Left out, any.
        status: A status, several, or a `range`. Left out, any.
        security: False leaves a 401, 403 or 429 an `http.request`: for paths whose handlers record refusals themselves,
            and better.
        begin: True records the start as well, as `http.request_started`, and makes it durable before the application is
            asked. So a request that kills its worker is in the trail. It costs a write to the disk for each request;
            both records have the same `request_id` in their context. Not together with `status`, which is not known
            at the start.

    Raises:
        ConfigError: A value is wrong.
    """

    __slots__ = ("_methods", "_segments", "_statuses", "begin", "level", "path", "security")

    def __init__(
        self,
        path: str = "/**",
        *,
        level: Level | LevelName,
        methods: str | Collection[str] | None = None,
        status: int | Collection[int] | None = None,
        security: bool = True,
        begin: bool = False,
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
        if begin and statuses is not None:
            raise ConfigError("rule.begin", "can't be combined with status, which is not known at a request's start")
        if begin and not self.level:
            raise ConfigError("rule.begin", "needs a level above none: the end is what the start is joined to")
        self.begin: Final = begin

    def __repr__(self) -> str:
        parts = [repr(self.path), f"level={self.level.name.lower()!r}"]
        if self._methods is not None:
            parts.append(f"methods={sorted(self._methods)}")
        if self._statuses is not None:
            parts.append(f"status={_ranges(self._statuses)}")
        if not self.security:
            parts.append("security=False")
        if self.begin:
            parts.append("begin=True")
        return f"Rule({', '.join(parts)})"

    @property
    def is_final(self) -> bool:
        """True if the status makes no difference, so that no later rule is asked."""
        return self._statuses is None

    def matches_request(self, method: str, segments: Sequence[str]) -> bool:
        """Return whether method and path match."""
        return (self._methods is None or method in self._methods) and _matches(self._segments, segments)

    def matches_status(self, status: int | None) -> bool:
        """Return whether the status matches; one that is not known matches only a rule that asks for none."""
        return self._statuses is None or status in self._statuses


class Plan(NamedTuple):
    """What a policy says of one method and path, before the status is known."""

    capture: Level  #: the highest level that any status can lead to: what has to be kept until then
    rules: tuple[Rule, ...]  #: those that match method and path, in order; the last one matches every status
    begin: bool  #: the start is recorded as well

    def rule_for(self, status: int | None) -> Rule:
        """Return the first rule that matches the status."""
        rules = self.rules
        if len(rules) == 1:
            return rules[0]
        return next(rule for rule in rules if rule.matches_status(status))


class Policy:
    """An ordered set of rules, the level of what none of them matches, and what is kept of bodies.

    Args:
        rules: The first rule that matches a request decides.
        default: The level of requests that no rule matches.
        max_body_bytes: How much of each body is kept at most, 0 to 16384.
        body_types: The content types whose bodies are kept; `*` stands for any text within a type. What a browser
            sends as a file is none of the default ones.

    Raises:
        ConfigError: A value is wrong.
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
        rules = (rules,) if isinstance(rules, Rule) else tuple(rules)
        for rule in rules:
            if not isinstance(rule, Rule):
                raise ConfigError(
                    "policy.rules", f"must be Rules such as Rule('/health', level='none'), not {rule!r:.80}"
                )
        if isinstance(body_types, str):
            raise ConfigError("policy.body_types", 'is one text; write ("application/json",)')
        if max_body_bytes < 0 or max_body_bytes > 16 * 1024:
            raise ConfigError("policy.max_body_bytes", "must be 0 to 16384: a trail keeps evidence, not traffic")
        self.max_body_bytes: Final = max_body_bytes
        self._rules: Final = (*rules, Rule(level=Level.of(default, "policy.default")))
        self._body_types: Final = re.compile(
            "|".join(fnmatch.translate(each.lower()) for each in body_types) or r"(?!)"
        )
        self._plans: dict[tuple[str, str], Plan] = {}
        #: Without rules of its own a policy says the same of every request.
        self.only_plan: Final = _plan_of(self._rules) if len(self._rules) == 1 else None

    def __repr__(self) -> str:
        *rules, last = self._rules
        return f"Policy({rules}, default={last.level.name.lower()!r}, max_body_bytes={self.max_body_bytes})"

    def rules_below(self, root_path: str) -> Sequence[Rule]:
        """Return the rules whose path begins with this prefix, which the application does not see in its paths."""
        prefix = root_path.rstrip("/")
        return [rule for rule in self._rules if rule.path == prefix or rule.path.startswith(f"{prefix}/")]

    def plan(self, method: str, path: str) -> Plan:
        """Return what is to be done with a request; from a cache if the same was asked before."""
        if self.only_plan is not None:
            return self.only_plan
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
        """Return whether the bodies of a content type are kept; parameters such as the charset are ignored."""
        return self._body_types.match(content_type.partition(";")[0].strip().lower()) is not None


def _plan_of(rules: Sequence[Rule]) -> Plan:
    """Return the plan of rules that match a request; after the first that matches every status none is asked."""
    last = next(index for index, rule in enumerate(rules) if rule.is_final)
    asked = tuple(rules[: last + 1])
    return Plan(max(rule.level for rule in asked), asked, any(rule.begin for rule in asked))


def _ranges(statuses: Collection[int]) -> str:
    """Return statuses as their author may have written them: `500-599` for a range."""
    ordered = sorted(statuses)
    is_range = len(ordered) > 2 and ordered[-1] - ordered[0] == len(ordered) - 1
    return f"range({ordered[0]}, {ordered[-1] + 1})" if is_range else str(ordered)


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
