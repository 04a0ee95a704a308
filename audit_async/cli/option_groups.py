"""Options that several commands share, each set of them as one dataclass.

    @dataclass(frozen=True, kw_only=True)
    class Paging:
        limit: Annotated[int | None, typer.Option("--limit")] = None

    @with_option_groups
    def query(paging: Paging) -> None: ...

The command line then has `--limit`, and the command gets one `Paging`. Typer itself takes options as parameters only,
so without this every command would list all of them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from inspect import Parameter, signature
from typing import Any, get_type_hints

__all__ = ["with_option_groups"]


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command as Typer takes it: each parameter that is a dataclass is replaced by the dataclass's fields.

    Args:
        command: A function whose parameters are options, arguments, or dataclasses of them.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}
    parameters = [
        expanded
        for parameter in signature(command).parameters.values()
        for expanded in _expand(parameter, hints[parameter.name], groups)
    ]

    @wraps(command)
    def from_options(**options: object) -> None:
        for name, group in groups.items():
            members = {field.name: options.pop(field.name) for field in fields(group)}
            options[name] = group(**members)
        command(**options)

    from_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    from_options.__signature__ = signature(command).replace(parameters=parameters)  # type: ignore[attr-defined]
    return from_options


def _expand(parameter: Parameter, hint: object, groups: dict[str, type[Any]]) -> Iterator[Parameter]:
    """Yield the parameters that stand for one: the fields of its dataclass, or itself."""
    group = groups.get(parameter.name)
    if group is None:
        yield parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=hint)
        return
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        default = Parameter.empty if field.default is MISSING else field.default
        yield Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name])
