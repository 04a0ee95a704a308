"""Personal members: which texts of an event are about a person, and whose key seals them.

A member is declared where its event is defined, with `Annotated[str, Personal(subject="customer_id")]`. A log without
`Privacy` takes no notice. What a class declares is checked when it is defined, and what it means is found out once a
class; how a text is sealed is the subject of `audit_async.privacy`.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Annotated, Any, Final, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

import msgspec

from audit_async.errors import InvalidEvent

__all__ = [
    "EACH_ITEM",
    "EACH_VALUE",
    "Personal",
    "PersonalMember",
    "Shape",
    "SubjectMember",
    "Variant",
    "personal_members",
]

#: The steps of a member's path that are no name.
EACH_ITEM: Final = "[]"
EACH_VALUE: Final = "{}"


class Personal(msgspec.Struct, frozen=True):
    """Declares a member of an event as personal: a log with `Privacy` seals it under its subject's key.

        class InvoicePaid(AuditEvent, tag="billing.invoice_paid"):
            customer_id: Annotated[str, Personal(subject="customer_id", kind="customer")]
            email: Annotated[str | None, Personal(subject="customer_id")] = None

    Allowed on texts (`str`, `str | None`), lists of them, mappings with text keys (the keys stay legible), and mappings
    of structs whose members may be anything, as `Change` (their names stay legible, too). Anything else, and a text
    with a pattern or a length, makes the definition of the event raise `InvalidEvent`: a sealed text
    would not be what the class declares.

    Args:
        subject: The member that holds the id of the person, itself or another one, dotted for one in a member
            (`actor.user_id`). It is looked for next to this member, then one level further out, up to the event. None
            if nobody can be named: then the day's common key seals it, which only forgetting by age destroys.
        kind: The id space of the subject, so that customer 42 is not user 42. None is the kind that the subject's own
            member declares, or `user`.
        confirmed_by: On a subject's own member: a member next to it that is true if the service has found such a
            person. Without it the id is what a stranger claims, and the day's common key seals it.
        account_kind: On a subject's own member: a member next to it that says what the account is. What belongs to a
            `service` or `system` is never sealed.
        joined: Of a list of texts: they are pieces of one, and are sealed as one.
        when: Sealed always, or only if the text is a path that `Privacy.paths` lists, or the id of a resource whose
            type `Privacy.resources` lists.
    """

    subject: str | None = None
    kind: str | None = None
    confirmed_by: str | None = None
    account_kind: str | None = None
    joined: bool = False
    when: Literal["always", "path", "resource"] = "always"


class Shape(Enum):
    """What a personal member holds."""

    TEXT = "text"
    TEXTS = "list of texts"  #: each sealed by itself
    PIECES = "pieces of one text"  #: sealed as one
    FREE_FORM = "mapping"  #: each value sealed by itself


class Variant(NamedTuple):
    """A step of a path: it goes on only if a struct's tag says that it is this one of a union."""

    tag_field: str
    tag: str | int


class SubjectMember(NamedTuple):
    """Where the id of a subject is, and what says whether it counts."""

    depth: int  #: how many steps of the personal member's path lead to what `names` begins at
    names: tuple[str, ...]  #: as they are recorded
    kind: str
    confirmed_by: str | None
    account_kind: str | None


class PersonalMember(NamedTuple):
    """A personal member of an event's class."""

    path: tuple[str | Variant, ...]  #: as it is recorded; `EACH_ITEM` and `EACH_VALUE` for containers
    shape: Shape
    subject: SubjectMember | None
    when: Literal["always", "path", "resource"]

    @property
    def name(self) -> str:
        """The path as people write it: `actor.user_id`."""
        return ".".join(step for step in self.path if isinstance(step, str)).replace(".[", "[").replace(".{", "{")


def personal_members(cls: type[msgspec.Struct]) -> tuple[PersonalMember, ...]:
    """Return the personal members of an event's class, at any depth.

    Raises:
        InvalidEvent: A declaration can't be kept.
        Exception: Whatever resolving the annotations raises.
    """
    return tuple(_Search(cls.__name__).struct(cls, ()))


class _Level(NamedTuple):
    """A struct on the way to a member."""

    cls: type[msgspec.Struct]
    path: tuple[str | Variant, ...]
    fields: dict[str, msgspec.structs.FieldInfo]


class _Search:
    """One search through a class and the structs that it is made of."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._levels: list[_Level] = []

    def struct(self, cls: type[msgspec.Struct], path: tuple[str | Variant, ...]) -> Iterator[PersonalMember]:
        if any(level.cls is cls for level in self._levels):
            if any(_markers_in(field.type) for field in _fields(cls).values()):
                raise self._invalid(path, f"is in {cls.__name__}, which contains itself; personal members may not be")
            return
        fields = _fields(cls)
        self._levels.append(_Level(cls, path, fields))
        for field in fields.values():
            if cls.__struct_config__.array_like and _markers_in(field.type):
                raise self._invalid((*path, field.name), "is in a struct that is recorded as a list; make it an object")
            yield from self._type(field.type, (*path, field.encode_name))
        self._levels.pop()

    def _type(self, type_: Any, path: tuple[str | Variant, ...]) -> Iterator[PersonalMember]:  # noqa: ANN401
        marker, metas, bare = _unwrapped(type_)
        if marker is not None:
            if (values := _open_struct_in(bare)) is not None:
                subject = self._subject(marker, path)
                for name in values:
                    yield PersonalMember((*path, EACH_VALUE, name), Shape.TEXT, subject, marker.when)
            else:
                yield self._member(marker, metas, bare, path)
            return
        origin, arguments = get_origin(bare), get_args(bare)
        if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
            yield from self.struct(bare, path)
        elif origin in {Union, types.UnionType}:
            structs = [
                choice for choice in arguments if isinstance(choice, type) and issubclass(choice, msgspec.Struct)
            ]
            for choice in arguments:
                config = getattr(choice, "__struct_config__", None)
                if config is not None and len(structs) > 1 and config.tag is not None:
                    yield from self._type(choice, (*path, Variant(config.tag_field, config.tag)))
                else:
                    yield from self._type(choice, path)
        elif origin is not None:
            yield from self._container(origin, arguments, path)
        elif (hints := _foreign_hints(bare)) and any(map(_markers_in, hints.values())):
            raise self._invalid(path, f"has personal members in {bare.__name__}; only msgspec.Struct may declare them")

    def _container(
        self,
        origin: Any,  # noqa: ANN401 - an annotation's
        arguments: tuple[Any, ...],
        path: tuple[str | Variant, ...],
    ) -> Iterator[PersonalMember]:
        if isinstance(origin, type) and issubclass(origin, Mapping):
            if _markers_in(arguments[0]):
                raise self._invalid(path, "declares its keys personal; keys stay legible, declare the whole member")
            yield from self._type(arguments[1], (*path, EACH_VALUE))
        elif origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
            if any(map(_markers_in, arguments)):
                raise self._invalid(path, "has personal members in a tuple of a fixed length; use a list or a struct")
        else:
            for argument in arguments[:1]:
                yield from self._type(argument, (*path, EACH_ITEM))

    def _member(
        self,
        marker: Personal,
        metas: list[msgspec.Meta],
        bare: Any,  # noqa: ANN401 - an annotation
        path: tuple[str | Variant, ...],
    ) -> PersonalMember:
        if any(
            meta.pattern is not None or meta.min_length is not None or meta.max_length is not None for meta in metas
        ):
            raise self._invalid(path, "is personal and has a pattern or a length, which no sealed text has; remove one")
        shape = _shape_of(bare)
        if shape is None:
            raise self._invalid(
                path,
                "is personal, and no text, list of texts or mapping with text keys; declare it as text, or its own "
                "members as personal",
            )
        if marker.joined:
            if shape is not Shape.TEXTS:
                raise self._invalid(path, "is joined, and no list of texts; leave joined out")
            shape = Shape.PIECES
        if marker.when != "always" and shape is not Shape.TEXT:
            raise self._invalid(path, f"is personal by its {marker.when}, and no text; leave `when` out")
        return PersonalMember(path, shape, self._subject(marker, path), marker.when)

    def _subject(self, marker: Personal, path: tuple[str | Variant, ...]) -> SubjectMember | None:
        if marker.subject is None:
            return None
        first, *rest = marker.subject.split(".")
        for level in reversed(self._levels):
            if first not in level.fields:
                continue
            holder, field = level.cls, level.fields[first]
            names = [field.encode_name]
            for name in rest:
                inner = _struct_in(field.type)
                if inner is None or name not in _fields(inner):
                    break
                holder, field = inner, _fields(inner)[name]
                names.append(field.encode_name)
            else:
                own = _unwrapped(field.type)[0] or Personal()
                siblings = _fields(holder)
                for sibling in filter(None, (own.confirmed_by, own.account_kind)):
                    if sibling not in siblings:
                        raise self._invalid(path, f"depends on {sibling!r}, which {holder.__name__} does not have")
                confirmed_by = own.confirmed_by and siblings[own.confirmed_by].encode_name
                account_kind = own.account_kind and siblings[own.account_kind].encode_name
                if _shape_of(_unwrapped(field.type)[2]) is not Shape.TEXT:
                    raise self._invalid(
                        path, f"has the subject {marker.subject!r}, which is no text; name a text member"
                    )
                kind = marker.kind or own.kind or "user"
                return SubjectMember(len(level.path), tuple(names), kind, confirmed_by, account_kind)
        raise self._invalid(
            path, f"has the subject {marker.subject!r}, which is no member here; name one, or leave it out"
        )

    def _invalid(self, path: tuple[str | Variant, ...], reason: str) -> InvalidEvent:
        return InvalidEvent(self._name, ".".join(step for step in path if isinstance(step, str)), reason)


def _unwrapped(type_: Any) -> tuple[Personal | None, list[msgspec.Meta], Any]:  # noqa: ANN401 - an annotation
    """Return the marker of an annotation, what else constrains it, and the type itself; None in unions is left out."""
    marker: Personal | None = None
    metas: list[msgspec.Meta] = []
    while True:
        if get_origin(type_) is Annotated:
            for meta in type_.__metadata__:
                if isinstance(meta, Personal):
                    marker = meta
                elif isinstance(meta, msgspec.Meta):
                    metas.append(meta)
            type_ = type_.__origin__
        elif get_origin(type_) in {Union, types.UnionType}:
            choices = [choice for choice in get_args(type_) if choice not in {types.NoneType, msgspec.UnsetType}]
            if len(choices) != 1:
                return marker, metas, type_
            (type_,) = choices
        else:
            return marker, metas, type_


def _shape_of(bare: Any) -> Shape | None:  # noqa: ANN401 - an annotation
    if bare is str:
        return Shape.TEXT
    if bare in {dict, Mapping}:
        return Shape.FREE_FORM
    origin, arguments = get_origin(bare), get_args(bare)
    if not isinstance(origin, type) or not arguments:
        return None
    _, metas, first = _unwrapped(arguments[0])
    if metas or first is not str:
        return None
    if issubclass(origin, Mapping):
        _, metas, value = _unwrapped(arguments[1])
        return Shape.FREE_FORM if value in {str, Any, object} and not metas else None
    is_list = issubclass(origin, list | set | frozenset) or (origin is tuple and arguments[1:] == (Ellipsis,))
    return Shape.TEXTS if is_list else None


def _open_struct_in(bare: Any) -> tuple[str, ...] | None:  # noqa: ANN401 - an annotation
    """Return the recorded names of a struct whose members may be anything, if a mapping has such values."""
    origin, arguments = get_origin(bare), get_args(bare)
    if not (isinstance(origin, type) and issubclass(origin, Mapping) and arguments[0] is str):
        return None
    struct = _struct_in(arguments[1])
    if struct is None or any(field.type not in {Any, object} for field in _fields(struct).values()):
        return None
    return tuple(field.encode_name for field in _fields(struct).values())


def _markers_in(type_: Any) -> bool:  # noqa: ANN401 - an annotation
    """Return whether an annotation itself declares something personal, at any depth but not inside of other classes."""
    if get_origin(type_) is Annotated:
        return any(isinstance(meta, Personal) for meta in type_.__metadata__) or _markers_in(type_.__origin__)
    return any(map(_markers_in, get_args(type_)))


def _foreign_hints(cls: Any) -> dict[str, Any]:  # noqa: ANN401 - an annotation
    """Return the annotations of a class that is no struct but has members."""
    if isinstance(cls, type) and (
        dataclasses.is_dataclass(cls)
        or hasattr(cls, "__total__")
        or hasattr(cls, "_fields")
        or hasattr(cls, "__attrs_attrs__")
    ):
        return get_type_hints(cls, include_extras=True)
    return {}


#: What msgspec resolves of the annotations of an event's parts, 0.1 ms a class. Not of events: they may be redefined.
_resolved: Final[WeakKeyDictionary[type[msgspec.Struct], dict[str, msgspec.structs.FieldInfo]]] = WeakKeyDictionary()


def _fields(cls: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    fields = _resolved.get(cls)
    if fields is None:
        fields = {field.name: field for field in msgspec.structs.fields(cls)}
        if cls.__struct_config__.tag_field != "event_type":
            _resolved[cls] = fields
    return fields


def _struct_in(type_: Any) -> type[msgspec.Struct] | None:  # noqa: ANN401 - an annotation
    bare = _unwrapped(type_)[2]
    return bare if isinstance(bare, type) and issubclass(bare, msgspec.Struct) else None
