"""Which members of one event are sealed, and under whose key: what a class declares, applied to an event's plain data.

Made once a class and log; knows no keys. Whatever the data holds, nothing here raises: a member that is not what its
class declares, as the slow path leaves of an event that is too large, is sealed as it is, or is not there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from audit_async._sanitize.reductions import IN_LIST, Path, render
from audit_async.config import Privacy
from audit_async.events.personal import EACH_ITEM, EACH_VALUE, PersonalMember, Shape, SubjectMember, Variant
from audit_async.privacy.sealed_text import event_place

__all__ = ["Found", "Plan", "Target", "rendered_path"]

#: The type of the resource that a refused request was for; its id is the path.
_PATH_TYPE: Final = "path"

#: Accounts that are no persons.
_NO_PERSONS: Final = frozenset({"service", "system"})

#: The members of a query that are the ids of persons, and their kinds: who asked is not the one that was asked about.
_ASKED_ABOUT: Final = {
    "actor": "user", "user_id": "user", "subject": "user", "attempted_user": "user", "requester": "user",
    "customer_id": "customer", "resource_id": "customer",
}  # fmt: skip
_QUERY: Final = ("audit.log_accessed", "query")

#: A subject: its kind and id, None if nobody can be named.
_Whose = tuple[str, str] | None

_Step = str | int
_PathMatcher = Callable[[str], re.Match[str] | None]


class Target(NamedTuple):
    """One text to be sealed, and where it goes."""

    container: Any
    key: _Step
    value: object
    path: tuple[str, ...]  #: as the associated data has it
    whose: _Whose
    place: bytes | None = None  #: the path, encoded, if it is always the same
    own_steps: int | None = None  #: how many steps of the path name the member, if not all


class _Member(NamedTuple):
    """A member that is sealed."""

    declared: PersonalMember
    names: tuple[str, ...] | None  #: the path, if it has nothing but names
    place: bytes | None  #: of a text at such a path


#: The texts of one struct that are one subject: the way to the struct, the struct, each member with its place and
#: value, and whose they are. A plain tuple: a named one takes 0.3 us to make.
Found = tuple[tuple[str, ...], dict[str, Any], list[tuple[str, bytes, object]], _Whose]


class _Group(NamedTuple):
    """Texts of one struct that have one subject: most personal members, found in one go (python -m bench privacy)."""

    names: tuple[str, ...]  #: the way to the struct
    members: tuple[tuple[str, bytes], ...]  #: each with its place
    own_id: str | None  #: the subject's member, if it is in the same struct
    subject: SubjectMember | None


class Plan:
    """What is sealed of the events of one class."""

    __slots__ = ("_groups", "_members", "_path_matcher", "_resources", "event_type", "is_empty")

    def __init__(self, event_type: str, personal: tuple[PersonalMember, ...], settings: Privacy) -> None:
        self.event_type: Final = event_type
        self._path_matcher: Final[_PathMatcher | None] = settings.path_matcher()
        self._resources: Final = frozenset(settings.resources)
        members = [
            _member(event_type, declared)
            for declared in personal
            if settings.seals(".".join(step for step in declared.path if isinstance(step, str) and _is_name(step)))
            and self._may_be_due(declared)
        ]
        self._groups: Final = _groups_of(members)
        self._members: Final = [member for member in members if not _is_plain(member)]
        self.is_empty: Final = not members  #: whether nothing is ever sealed

    def _may_be_due(self, declared: PersonalMember) -> bool:
        return declared.when == "always" or self._path_matcher is not None or bool(self._resources)

    def found(self, data: dict[str, Any]) -> list[Found]:
        """Return the texts to be sealed that always are, by struct and subject; `data` is the event's plain data."""
        found: list[Found] = []
        for names, members, own_id, subject in self._groups:
            container: Any = data
            for name in names:
                container = container.get(name)
                if container.__class__ is not dict:
                    break
            else:
                get = container.get
                texts: list[tuple[str, bytes, object]] = []
                for name, place in members:  # no comprehension, which is a call
                    value = get(name)
                    if value is not None:
                        texts.append((name, place, value))
                if not texts:
                    continue
                whose: _Whose = None
                if subject is not None:
                    _, _, kind, confirmed_by, account_kind = subject
                    if own_id is None:
                        whose, is_person = _subject_in(subject, _inside(data, names, subject.depth))
                        if not is_person:
                            continue
                    elif account_kind is not None and get(account_kind) in _NO_PERSONS:
                        continue
                    elif (id_ := get(own_id)) and (confirmed_by is None or get(confirmed_by) is True):
                        whose = kind, id_
                found.append((names, container, texts, whose))
        return found

    def targets(self, data: dict[str, Any]) -> list[Target]:
        """Return what else is to be sealed; joins the pieces of bodies in `data`, and changes nothing else."""
        targets: list[Target] = []
        for member in self._members:
            declared = member.declared
            if member.names is None:
                for containers, path in _places(data, declared.path):
                    self._add(targets, declared, containers, path, None)
                continue
            containers = [data]
            for name in member.names[:-1]:
                inner = containers[-1].get(name)
                if not isinstance(inner, dict):
                    break
                containers.append(inner)
            else:
                if containers[-1].get(member.names[-1]) is not None:
                    self._add(targets, declared, containers, member.names, member.place)
        return targets

    def _add(
        self,
        targets: list[Target],
        declared: PersonalMember,
        containers: list[Any],
        path: tuple[_Step, ...],
        place: bytes | None,
    ) -> None:
        """Add what is to be sealed of one member; `containers` are those on the way, one a step of its path."""
        container, key = containers[-1], path[-1]
        value = container[key]
        whose, is_due = self._whose(declared, containers, value)
        if not is_due:
            return
        texts = tuple(map(str, path))
        if declared.shape is Shape.TEXT:
            targets.append(Target(container, key, value, texts, whose, place))
        elif declared.shape is Shape.PIECES:
            if isinstance(value, list) and value:
                joined = ["".join(map(str, value))]
                container[key] = joined
                targets.append(Target(joined, 0, joined[0], (*texts, "0"), whose, own_steps=len(texts)))
        elif isinstance(value, list):
            targets += [Target(value, n, text, (*texts, str(n)), whose) for n, text in enumerate(value)]
        elif isinstance(value, dict):
            is_query = (self.event_type, texts[0]) == _QUERY
            for name, text in value.items():
                own = (_asked_about(name, text) or whose) if is_query else whose
                targets.append(Target(value, name, text, (*texts, name), own))

    def _whose(self, declared: PersonalMember, containers: list[Any], value: object) -> tuple[_Whose, bool]:
        """Return whose a member is, and whether it is sealed at all."""
        if declared.when == "path":
            return self._whose_path(declared, containers, value)
        subject = declared.subject
        if declared.when == "resource":
            resource = _holder_of_id(subject, containers[subject.depth]) if subject is not None else containers[-1]
            kind = resource.get("resource_type")
            id_ = resource.get(subject.names[-1]) if subject is not None else value
            if kind in self._resources:
                return ((kind, id_) if isinstance(id_, str) else None), True
            return self._whose_path(declared, containers, id_) if kind == _PATH_TYPE else (None, False)
        return (None, True) if subject is None else _subject_in(subject, containers[subject.depth])

    def _whose_path(self, declared: PersonalMember, containers: list[Any], path: object) -> tuple[_Whose, bool]:
        """Return whose a path is: of the person whom it names, else of whoever the member belongs to."""
        match = self._path_matcher(path) if self._path_matcher is not None and isinstance(path, str) else None
        if match is None:
            return None, False
        if match.lastgroup is not None:  # sealed also if a service asks: the path is about another
            return (match.lastgroup.rpartition("_")[0], match[match.lastgroup]), True
        if declared.when == "resource" or declared.subject is None:
            return None, True
        return _subject_in(declared.subject, containers[declared.subject.depth])


def _subject_in(subject: SubjectMember, holder: Any) -> tuple[_Whose, bool]:  # noqa: ANN401 - plain data
    """Return who a subject is, and False if it is no person; `holder` is what its path begins at."""
    holder = _holder_of_id(subject, holder)
    if not holder:
        return None, True
    if subject.account_kind is not None and holder.get(subject.account_kind) in _NO_PERSONS:
        return None, False
    id_ = holder.get(subject.names[-1])
    confirmed = subject.confirmed_by is None or holder.get(subject.confirmed_by) is True
    return ((subject.kind, id_) if isinstance(id_, str) and id_ and confirmed else None), True


def _holder_of_id(subject: SubjectMember, holder: Any) -> dict[str, Any]:  # noqa: ANN401 - plain data
    """Return what holds the id of a subject, whose path begins at `holder`; nothing if it is not there."""
    for name in subject.names[:-1]:
        holder = holder.get(name) if isinstance(holder, dict) else None
    return holder if isinstance(holder, dict) else {}


def _inside(data: dict[str, Any], names: tuple[str, ...], depth: int) -> Any:  # noqa: ANN401 - plain data
    container: Any = data
    for name in names[:depth]:
        container = container[name]
    return container


def rendered_path(data: dict[str, Any], path: tuple[str, ...]) -> str:
    """Return a path as the list of what was reduced writes it."""
    at: Path | None = None
    container: Any = data
    for step in path:
        if isinstance(container, list):
            at = Path(at, int(step), IN_LIST)
            container = container[int(step)] if int(step) < len(container) else None
        else:
            position = list(container).index(step) if isinstance(container, dict) and step in container else 0
            at = Path(at, position, step)
            container = container.get(step) if isinstance(container, dict) else None
    return render(at)


def _asked_about(name: str, term: object) -> _Whose:
    """Return whom a term of a query is about, None if it names nobody."""
    if isinstance(term, dict):  # `fields`: values by path
        about = (_asked_about(str(path).rpartition(".")[2], value) for path, value in term.items())
        return next(filter(None, about), None)
    return (_ASKED_ABOUT[name], term) if name in _ASKED_ABOUT and isinstance(term, str) and term else None


def _member(event_type: str, declared: PersonalMember) -> _Member:
    if all(map(_is_name, declared.path)):
        names = tuple(step for step in declared.path if isinstance(step, str))
        place = event_place(event_type, names) if declared.shape is Shape.TEXT else None
        return _Member(declared, names, place)
    return _Member(declared, None, None)


def _is_plain(member: _Member) -> bool:
    """Return whether a member is a text at a path of names that is always sealed."""
    return member.place is not None and member.declared.when == "always"


def _groups_of(members: list[_Member]) -> list[_Group]:
    groups: dict[tuple[tuple[str, ...], SubjectMember | None], list[tuple[str, bytes]]] = {}
    for member in filter(_is_plain, members):
        assert member.names is not None  # noqa: S101 - it is plain
        assert member.place is not None  # noqa: S101 - likewise
        group = groups.setdefault((member.names[:-1], member.declared.subject), [])
        group.append((member.names[-1], member.place))
    return [_Group(names, tuple(found), _own_id(names, subject), subject) for (names, subject), found in groups.items()]


def _own_id(names: tuple[str, ...], subject: SubjectMember | None) -> str | None:
    if subject is None or subject.depth != len(names) or len(subject.names) != 1:
        return None
    return subject.names[0]


def _is_name(step: str | Variant) -> bool:
    return isinstance(step, str) and step not in {EACH_ITEM, EACH_VALUE}


def _places(data: dict[str, Any], path: tuple[str | Variant, ...]) -> Iterator[tuple[list[Any], tuple[_Step, ...]]]:
    """Yield each place that a path leads to: the containers on the way, one a step, and the path with its indexes."""
    waiting: list[tuple[list[Any], tuple[_Step, ...], int]] = [([data], (), 0)]
    while waiting:
        containers, taken, at = waiting.pop()
        container, step = containers[-1], path[at]
        if isinstance(step, Variant):
            if isinstance(container, dict) and container.get(step.tag_field) == step.tag:
                waiting.append(([*containers, container], taken, at + 1))
            continue
        keys: list[_Step] = []
        if step == EACH_ITEM:
            keys = list(range(len(container))) if isinstance(container, list) else []
        elif isinstance(container, dict):
            keys = list(container) if step == EACH_VALUE else [step] if step in container else []
        for key in reversed(keys):
            if at + 1 == len(path):
                if container[key] is not None:
                    yield containers, (*taken, key)
            else:
                waiting.append(([*containers, container[key]], (*taken, key), at + 1))
