"""docs/privacy.md says of every text of every built-in event whether it is personal, whose it is, or why it is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import inspect

from audit_async.events import AuditEvent, describe
from audit_async.events.personal import PersonalMember
from audit_async.events.registry import known_types

PAGE = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text(encoding="utf-8")
BUILT_IN = {tag: cls for tag, cls in known_types().items() if cls.__module__.startswith("audit_async.events")}


def names_in(text: str) -> list[str]:
    """Return what is in backquotes."""
    return re.findall(r"`([^`]+)`", text)


def table(heading: str) -> list[list[str]]:
    """Return the cells of the rows of the table after a heading line."""
    rows = PAGE.partition(heading)[2].lstrip().partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def texts_of(info: inspect.Type, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the paths of all texts of an event's class."""
    match info:
        case inspect.UnionType(types=types):
            for choice in types:
                yield from texts_of(choice, path)
        case inspect.StructType(fields=fields):
            for field in fields:
                if field.encode_name != "reduced":
                    yield from texts_of(field.type, (*path, field.encode_name))
        case inspect.ListType(item_type=inspect.StructType() as item):
            yield from texts_of(item, (*path[:-1], f"{path[-1]}[]"))
        case inspect.ListType(item_type=inner) | inspect.DictType(value_type=inner):
            yield from texts_of(inner, path)
        case inspect.StrType() | inspect.AnyType():
            yield ".".join(path)


def personal_of(cls: type[AuditEvent]) -> dict[str, PersonalMember]:
    """Return the personal members of a class by name."""
    members = describe(cls).personal
    assert members is not None
    return {member.name: member for member in members}


def test_the_page_names_all_that_is_sealed_and_whose_it_is() -> None:
    """The table is what the classes declare, no more and no less."""
    written: set[tuple[str, str, str]] = set()
    for events, members, whose in table("The personal members of the built-in events, and whose they are:"):
        subject = None if whose == "itself" else "" if whose == "nobody" else names_in(whose)[0]
        for event in names_in(events):
            written.update((event, name, name if subject is None else subject) for name in names_in(members))
    declared = set()
    for tag, cls in BUILT_IN.items():
        for name, member in personal_of(cls).items():
            if member.when != "always":
                continue
            event = "actor" if name.startswith("actor.") else tag
            subject = ""
            if member.subject is not None:
                holder = PersonalMember(
                    (*member.path[: member.subject.depth], *member.subject.names), member.shape, None, "always"
                )
                subject = holder.name
            declared.add((event, name, subject))
    assert declared == written


def test_the_page_names_what_is_sealed_on_demand() -> None:
    """Members that `paths` and `resources` make personal are in the paragraph after the table."""
    paragraph = PAGE.partition("With `paths`, the paths that it lists")[2].partition("\n\n")[0]
    for tag, cls in BUILT_IN.items():
        for name, member in personal_of(cls).items():
            if member.when != "always":
                assert f"`{tag}`" in paragraph, tag
                assert f"`{name}`" in paragraph, name


def test_every_other_text_has_a_reason() -> None:
    """Nothing is left open for want of a thought, and no reason is given for what no event has."""
    reasons = [
        name
        for members, _ in table("Every other text of the built-in events stays as it is:")
        for name in names_in(members)
    ]
    plain = {
        path.rpartition(".")[2]
        for cls in BUILT_IN.values()
        for path in texts_of(inspect.type_info(cls))
        if path not in personal_of(cls)
    }
    assert plain == set(reasons)
