"""Reading the environment: which variable is which setting, and how variables replace what a file says."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Mapping
from typing import Final

import msgspec

from audit_async.config.mode import Local
from audit_async.config.setting import Settings, groups_of
from audit_async.config.tables import names_of, read_text
from audit_async.config.wording import brief
from audit_async.errors import ConfigError

_log = logging.getLogger("audit_async")

#: The prefix that the command's own variables have as well.
DEFAULT_PREFIX: Final = "AUDIT_"
#: Variables of the command `audit-async`, which a service may have next to its own.
COMMAND_VARIABLES: Final = frozenset(
    {"AUDIT_BASE_DIR", "AUDIT_BUCKET_URL", "AUDIT_ENGINE_URL", "AUDIT_KEY_STORE", "AUDIT_MASTER_KEY", "AUDIT_TENANT"}
)
#: A name is a misspelt setting if it is so similar to one (difflib's ratio); a prefix counts for neither.
_MISSPELT: Final = 0.8

#: Where in a configuration's table a setting is: its name, or its group's and its own.
Place = tuple[str, ...]


class Variables:
    """The variables with a prefix, as settings.

    Args:
        cls: Which settings there are.
        prefix: What the variables begin with.
        environ: The variables, `os.environ` if None.

    Raises:
        ConfigError: For an empty prefix, and for a variable whose name looks like a misspelt setting. Another that is
            no setting is ignored with a warning in the log: a container's environment has variables of many programs.
    """

    def __init__(self, cls: type[Settings], prefix: str, environ: Mapping[str, str] | None) -> None:
        if not prefix:
            raise ConfigError("prefix", "must not be empty: every variable of the environment would be a setting")
        settings = variables_of(cls, prefix)
        #: What is given, by place, read as the setting's type.
        self.given: dict[Place, object] = {}
        for name, text in (os.environ if environ is None else environ).items():
            if not name.startswith(prefix) or not text:
                continue
            if name in settings:
                place, type_ = settings[name]
                self.given[place] = read_text(text, type_)
            elif prefix != DEFAULT_PREFIX or name not in COMMAND_VARIABLES:
                _note_unknown(name, prefix, settings)
        self._name_of = {".".join(place): name for name, (place, _) in settings.items()}
        self._name_of["mode"] = f"{self._name_of['mode.base_dir']} or {self._name_of['mode.type']}"

    def name_of(self, field: str) -> str:
        """Return the variable of a setting, empty for what is none; `field` is its dotted name."""
        return self._name_of.get(field, "")

    def gives(self, field: str) -> bool:
        """Return whether a setting is among the variables; `field` is its dotted name."""
        return tuple(field.split(".")) in self.given

    def over(self, table: Mapping[str, object]) -> dict[str, object]:
        """Return a table with these settings in place of its own.

        A variable that chooses another kind of group (`AUDIT_FLUSH_MODE=batched` over a file's hybrid) drops what the
        table says of the first kind.
        """
        merged = dict(table)
        for place, value in self.given.items():
            if len(place) == 1:
                merged[place[0]] = value
        for group in dict.fromkeys(place[0] for place in self.given if len(place) > 1):
            own = {place[1]: value for place, value in self.given.items() if place[0] == group and len(place) > 1}
            below = {} if table.get(group) is None else table[group]
            if isinstance(below, dict):  # anything else is wrong, and refused as that
                another = {"type"} <= below.keys() & own.keys() and below["type"] != own["type"]
                merged[group] = own if another else below | own
        _infer_mode(merged)
        return merged


def variables_of(cls: type[Settings], prefix: str) -> dict[str, tuple[Place, object]]:
    """Return the place and the type of every variable that is a setting; the type of a group's `type` is text."""
    shorter = {"mode": "", "flush_mode": "FLUSH_"}
    variables: dict[str, tuple[Place, object]] = {}
    for field in msgspec.structs.fields(cls):
        groups = groups_of(field.type)
        own = f"{prefix}{field.name.upper()}"
        if not groups:
            variables[own] = (field.name,), field.type
        elif len(groups) > 1:
            variables[own] = (field.name, "type"), str
        for group in groups:
            room = f"{prefix}{shorter.get(field.name, f'{field.name.upper()}_')}"
            for member in msgspec.structs.fields(group):
                variables[f"{room}{member.name.upper()}"] = (field.name, member.name), member.type
    return variables


def _note_unknown(name: str, prefix: str, settings: Mapping[str, object]) -> None:
    """Refuse a variable that looks like a misspelt setting; otherwise say in the log that it is none."""
    rests = [known.removeprefix(prefix) for known in settings]
    rest = brief(name.removeprefix(prefix))
    close = difflib.get_close_matches(rest, rests, n=1, cutoff=_MISSPELT)
    if not close and "_" in rest:  # without its group: MIN_RETENTION_DAYS of RETENTION_MIN_RETENTION_DAYS
        close = [known for known in rests if known.endswith(f"_{rest}")]
    if close:
        raise ConfigError(brief(name), f"no such variable; did you mean {prefix}{close[0]}?")
    _log.warning("the variable %s is no setting of audit-async and is ignored", brief(name))


def _infer_mode(table: dict[str, object]) -> None:
    """A base directory alone means `Local`; `disabled` wins, so one variable switches recording off."""
    mode = table.get("mode")
    if isinstance(mode, dict):
        table["mode"] = mode = {"type": "local"} | mode
        if mode["type"] == "disabled":
            for name in names_of(Local):
                mode.pop(name, None)
