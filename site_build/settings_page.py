"""Write docs/configuration.md, the page of all settings: `python -m site_build.settings_page`.

What the page says of a setting is what its class says; a test fails if it is out of date.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from audit_async.config import AuditConfig
from audit_async.config.environment import DEFAULT_PREFIX, variables_of
from audit_async.config.setting import GIB, KIB, MIB, TIB, Group, allowed, groups_of, unit_of

PAGE: Final = Path(__file__).parents[1] / "docs" / "configuration.md"
_OPENING: Final = Path(__file__).with_name("settings_page_opening.md")
_ARGUMENT: Final = re.compile(r"^    (\w+): (.*(?:\n(?:        .*)?)*)", re.MULTILINE)
_MARKS: Final = str.maketrans({"|": "\\|", "<": "&lt;"})


def page() -> str:
    """Return the page."""
    variable_of = {place: name for name, (place, _) in variables_of(AuditConfig, DEFAULT_PREFIX).items()}
    return "\n".join(
        [
            _OPENING.read_text(encoding="utf-8"),
            *_section("The log", AuditConfig, (), variable_of),
            *(
                line
                for field in msgspec.structs.fields(AuditConfig)
                for group in groups_of(field.type)
                if group.__struct_fields__
                for line in _section(_title(field.name, group), group, (field.name,), variable_of)
            ),
        ]
    )


def _title(name: str, group: type[Group]) -> str:
    tag = group.__struct_config__.tag
    chosen = f', type = "{tag}"' if tag is not None else ""
    return f"`[{name}]`{chosen}"


def _section(
    title: str, group: type[Group], above: tuple[str, ...], variable_of: dict[tuple[str, ...], str]
) -> Iterator[str]:
    summary, texts = _described(group)
    yield f"## {title}\n"
    yield f"`{group.__name__}`: {summary[0].lower()}{summary[1:]}\n"
    yield "| setting | variable | default | what it is |"
    yield "| --- | --- | --- | --- |"
    for field in msgspec.structs.fields(group):
        places = [(*above, field.name)]
        if len(groups_of(field.type)) > 1:
            places = [(field.name, "type")]
        elif groups_of(field.type):
            places = []  # it has a table of its own, and a variable for each of its settings
        variable = ", ".join(f"`{variable_of[place]}`" for place in places) or "see below"
        text = texts[field.name].translate(_MARKS)
        may_be = allowed(field.type).partition("; in a file or a variable")[0].translate(_MARKS)
        may_be = f" *Allowed: {may_be}.*" if may_be and not groups_of(field.type) else ""
        yield f"| `{field.name}` | {variable} | {_default(field)} | {text}{may_be} |"
    yield ""


def _described(group: type[Group]) -> tuple[str, dict[str, str]]:
    """Return the first line of a group's docstring, and what it says of each setting; of inherited ones as well."""
    texts: dict[str, str] = {}
    text = inspect.cleandoc(group.__doc__ or "")
    for name, said in _ARGUMENT.findall(text.partition("Args:\n")[2].partition("\nRaises:")[0]):
        texts[name] = " ".join(said.split())
    if missing := set(group.__struct_fields__) - texts.keys():
        raise ValueError(f"{group.__name__} does not say what its settings are: {sorted(missing)}")
    return text.partition("\n")[0], texts


def _default(field: msgspec.structs.FieldInfo) -> str:
    """Return a setting's default, as it is written in a file."""
    if field.required:
        return "none: you say it"
    default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if groups_of(field.type):
        return "as below" if default is not None else "not set"
    if default in {None, ""}:
        return "not set"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return f"{len(default)} names" if len(default) > 6 else ", ".join(f"`{name}`" for name in default) or "none"
    if unit_of(field.type) == "bytes":
        size, unit = next((size, unit) for size, unit in _UNITS if default % size == 0)
        return f"`{default // size}{unit}`"
    return f"`{default}`"


_UNITS: Final = ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"), (1, ""))

if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
