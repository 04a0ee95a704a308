"""The configuration of a log: what may be set, what each setting promises, and where settings come from.

Every object in here is frozen and valid: a value that can't work raises `ConfigError`, with the setting's
dotted name, what was given and what is allowed, before anything touches the disk. Settings come from code
(`AuditConfig(...)`), a TOML file (`AuditConfig.load`), the environment (`AuditConfig.from_env`) or a named
starting point (`AuditConfig.preset`). Nothing in here looks at the file system but `load`, which reads its
one file.
"""

from __future__ import annotations

import difflib
import os
import re
import reprlib
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    Literal,
    Self,
    TypeAlias,
    TypedDict,
    TypeVar,
    Unpack,
    get_args,
    get_origin,
)

import msgspec
from msgspec import Meta, Struct

from audit_async.errors import ConfigError
from audit_async.tlog.config import Transparency

__all__ = [
    "AuditConfig",
    "Batched",
    "Disabled",
    "FlushMode",
    "Hybrid",
    "Immediate",
    "Local",
    "Mode",
    "PresetName",
    "Redaction",
    "RetentionPolicy",
    "RotationPolicy",
    "Transparency",
]

_KIB: Final = 1024
_MIB: Final = 1024 * _KIB
_GIB: Final = 1024 * _MIB
_TIB: Final = 1024 * _GIB

#: What a record and its receipt need beside the event's own text, in bytes, rounded up; the buffer counts it
#: too.
_RECORD_ROOM: Final = 1024

# -- the types of settings: each says in its description what is allowed, every error repeats it -------------


def _whole(low: int, high: int, unit: str) -> Meta:
    return Meta(ge=low, le=high, description=f"a whole number of {unit} from {low} to {high}")


def _size(low: int, high: int) -> Meta:
    return Meta(
        ge=low,
        le=high,
        description=f'whole bytes from {low} to {high}; in a file or a variable also text such as "64MiB"',
        extra={"unit": "bytes"},
    )


_Flag = Annotated[bool, Meta(description="true or false")]
_Days = Annotated[int, _whole(1, 36_500, "days")]
_Records = Annotated[int, _whole(1, 1_000_000, "records")]
# The bounds are finite on both sides, so neither NaN nor infinity passes them.
_Seconds = Annotated[float, Meta(ge=0.001, le=86_400, description="seconds from 0.001 to 86400")]
_PATH_ALLOWED: Final = "a path, not empty and not beginning with ~ (write it out)"
_Path = Annotated[str, Meta(pattern=r"^(?!~)[^\0]+\Z", description=_PATH_ALLOWED)]

_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"
_NAME_ALLOWED: Final = "1 to 64 ASCII letters, digits, '.', '_' and '-', a letter or digit first, no '..'"
# An empty one stands for "left out"; whether it may be is a question for the whole configuration.
_ServiceId = Annotated[str, Meta(pattern=rf"^(?!.*\.\.)(?:{_NAME}|\Z)", description=_NAME_ALLOWED)]
_InstanceName = Annotated[
    Annotated[str, Meta(pattern=rf"^(?!.*\.\.){_NAME}")] | None,
    Meta(description=f"left out, or {_NAME_ALLOWED}"),
]


def _checked(field: str, given: object, type_: object) -> object:
    """Return `given` as a value of `type_`, or raise `ConfigError` that says what is allowed."""
    if groups := _groups(type_):  # each has checked itself
        if isinstance(given, tuple(groups)) or (given is None and _may_be_none(type_)):
            return given
    else:
        try:
            value: object = msgspec.convert(given, type_)
        except (msgspec.ValidationError, UnicodeEncodeError):  # the latter for surrogates where no text is due
            pass
        else:
            return value
    raise ConfigError(field, f"{_shown(given)} is not allowed; allowed: {_allowed(type_)}")


def _groups(type_: object) -> list[type[_Group]]:
    """Return the groups of settings that a setting may be; none for a plain value."""
    if isinstance(type_, type):
        return [type_] if issubclass(type_, _Settings | Transparency) else []
    choices = get_args(type_)[:1] if get_origin(type_) is Annotated else get_args(type_)
    return [group for choice in choices for group in _groups(choice)]


def _may_be_none(type_: object) -> bool:
    return type_ is NoneType or any(_may_be_none(choice) for choice in get_args(type_))


def _allowed(type_: object) -> str:
    """Return the description of a setting's type."""
    return "".join(meta.description or "" for meta in get_args(type_)[1:] if isinstance(meta, Meta))


def _shown(given: object) -> str:
    """Return a short form of a wrong value: enough to recognise it, never a whole file."""
    if isinstance(given, dict):
        return "a table"
    return _short.repr(given)


_short: Final = reprlib.Repr()
_short.maxstring = _short.maxother = 60


class _Settings(Struct, frozen=True, kw_only=True):
    """The base of every group of settings: it refuses wrong values however the object is made."""

    _path: ClassVar[str] = ""  #: what stands before a field's name in an error, its dot included

    def __post_init__(self) -> None:
        for field in msgspec.structs.fields(type(self)):
            given = getattr(self, field.name)
            value = _checked(f"{self._path}{field.name}", given, field.type)
            if value is not given:  # an int where seconds are due
                msgspec.structs.force_setattr(self, field.name, value)


#: A group that checks itself, and knows nothing of this module.
_Group: TypeAlias = _Settings | Transparency


# -- where records go ----------------------------------------------------------------------------------------


class Local(_Settings, frozen=True, tag_field="type", tag="local"):
    """Write the log to a directory of this host, `<base_dir>/<service_id>/<instance>/`.

    `base_dir` may be relative: to the current directory where it comes from code or the environment, to the
    file's directory where it comes from a file. It is kept as text; `~` and variables are not expanded.
    """

    _path: ClassVar[str] = "mode."

    base_dir: Annotated[str | os.PathLike[str], Meta(description=_PATH_ALLOWED)]

    def __post_init__(self) -> None:
        field = f"{self._path}base_dir"
        try:
            text: object = os.fspath(self.base_dir)
        except TypeError:
            text = self.base_dir  # refused below, with what is allowed
        msgspec.structs.force_setattr(self, "base_dir", _checked(field, text, _Path))


class Disabled(_Settings, frozen=True, tag_field="type", tag="disabled"):
    """Record nothing and never touch the disk; every other setting is still checked."""

    _path: ClassVar[str] = "mode."


#: Where records go.
Mode = Local | Disabled

# -- when records become durable -----------------------------------------------------------------------------


class Immediate(_Settings, frozen=True, tag_field="type", tag="immediate"):
    """Sync as soon as anything is waiting; what arrives during a sync shares the next one.

    A crash or power cut loses what was emitted and not yet acknowledged: about one sync's time.
    """

    _path: ClassVar[str] = "flush_mode."


class Batched(_Settings, frozen=True, kw_only=True, tag_field="type", tag="batched"):
    """Hand records to the operating system at once; sync after `size` records or `interval` seconds.

    The timer fires also when nothing more arrives. A killed process loses what was still in memory; a power
    cut loses up to `size` records or `interval` seconds, critical events among them.
    """

    _path: ClassVar[str] = "flush_mode."

    size: _Records = 100
    interval: _Seconds = 1.0


class Hybrid(_Settings, frozen=True, kw_only=True, tag_field="type", tag="hybrid"):
    """Like `Batched`, and a critical event makes everything up to it durable at once.

    A power cut loses up to `batch_size` records or `batch_interval` seconds, none of them critical. With
    `critical_immediate=False` it is `Batched`.
    """

    _path: ClassVar[str] = "flush_mode."

    batch_size: _Records = 100
    batch_interval: _Seconds = 1.0
    critical_immediate: _Flag = True


#: When records become durable.
FlushMode = Immediate | Batched | Hybrid

# -- how long a segment grows, how long it is kept -----------------------------------------------------------


class RotationPolicy(_Settings, frozen=True, kw_only=True):
    """When a segment is sealed and the next one begun, always between two records.

    `daily`: at the first record of a new UTC day. `max_bytes`: before the record that would make the segment
    larger; a single record larger than that stands in a segment alone.
    """

    _path: ClassVar[str] = "rotation."

    daily: _Flag = True
    max_bytes: Annotated[int, _size(_KIB, _TIB)] = 100 * _MIB


class RetentionPolicy(_Settings, frozen=True, kw_only=True):
    """What happens to sealed segments with age, in days since a segment's last record.

    Past `archive_after_days` a segment is compressed, past `delete_after_days` it is deleted.
    `min_retention_days` is the promise to auditors: nothing younger is ever deleted, and a policy that would
    do so is refused. An open log applies the policy by itself, once a day, unless `automatic` is off; then only
    `AuditLogger.apply_retention` does.
    """

    _path: ClassVar[str] = "retention."

    min_retention_days: _Days = 2555
    archive_after_days: Annotated[int, _whole(0, 36_500, "days")] = 90
    delete_after_days: _Days = 2555
    automatic: _Flag = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.delete_after_days < self.min_retention_days:
            raise ConfigError(
                "retention.delete_after_days",
                f"{self.delete_after_days} days would delete what retention.min_retention_days keeps for "
                f"{self.min_retention_days}; delete later or lower the minimum",
            )
        if self.archive_after_days > self.delete_after_days:
            raise ConfigError(
                "retention.archive_after_days",
                f"{self.archive_after_days} days is never reached, because retention.delete_after_days is "
                f"{self.delete_after_days}; give at most that",
            )


# -- what never reaches the disk -----------------------------------------------------------------------------

_SecretNames = Annotated[
    tuple[Annotated[str, Meta(pattern=r"^[^,]*[A-Za-z0-9][^,]*\Z", max_length=64)], ...],
    Meta(
        description="names of up to 64 characters, with a letter or digit and no comma; in a variable joined by commas"
    ),
]


class Redaction(_Settings, frozen=True, kw_only=True):
    """What is taken out of free-form data, headers and bodies before it is recorded, and left as `[redacted:kind]`.

    - `enabled`: search at all. Fields of a fixed type (`path: str`) are never searched: what they hold is the code's
      own choice.
    - `keys`: whose values are secrets wherever they stand in free-form data. Case, punctuation and digits at the end
      don't count, and what a name begins with is free: `api_key` is also `X-Api-Key` and `stripeApiKey2`. A name that
      goes on (`token_count`, `password_changed_at`) is another one. Given, they replace the list.
    - `extra_keys`: names beside those of `keys`.
    - `values`: also take out what looks like a secret by itself, whatever its name: bearer and basic credentials, JWTs,
      private keys in PEM, keys of cloud services, passwords in URLs, card numbers; in a longer text only that part.
    """

    _path: ClassVar[str] = "redaction."

    enabled: _Flag = True
    keys: _SecretNames = (
        "password", "passwd", "pwd", "passphrase", "passcode", "pass", "password_confirmation", "password_hash",
        "secret", "token", "access_token", "refresh_token", "auth_token", "api_token", "jwt", "bearer", "otp",
        "authorization", "cookie", "credential", "api_key", "private_key", "secret_key", "access_key", "signing_key",
        "encryption_key", "master_key", "account_key", "shared_key", "session_key", "subscription_key", "auth_key",
        "card_number", "cvv", "cvc", "recovery_code",
    )  # fmt: skip
    extra_keys: _SecretNames = ()
    values: _Flag = True


# -- the whole -----------------------------------------------------------------------------------------------

#: The starting points that `AuditConfig.preset` knows.
PresetName = Literal["gdpr", "soc2", "iso27001", "hipaa", "pci_dss", "throughput", "home_lab"]


class _Overrides(TypedDict, total=False):
    """The settings of `AuditConfig` by name, each optional."""

    mode: Mode
    service_id: str
    flush_mode: FlushMode
    rotation: RotationPolicy
    retention: RetentionPolicy
    instance: str | None
    buffer_events: int
    buffer_bytes: int
    on_unsafe: Literal["escape", "reject"]
    max_field_chars: int
    max_event_bytes: int
    redaction: Redaction
    transparency: Transparency | None
    drain_timeout: float
    handle_signals: bool
    allow_insecure_dir: bool
    low_disk_bytes: int


class AuditConfig(_Settings, frozen=True, kw_only=True):
    """All settings of one log; frozen, and valid from the moment it exists.

    - `mode`: `Local(base_dir)`, or `Disabled()` to record nothing.
    - `service_id`: whose trail it is. It stands in every record and names a directory: 1 to 64 ASCII letters,
      digits, `.`, `_` and `-`, a letter or digit first, no `..`. May be left out (empty) only with
      `Disabled()`.
    - `flush_mode`: when records become durable, and so what a power cut can lose.
    - `rotation`, `retention`: how long a segment grows, how long it is kept.
    - `instance`: the name of this process's chain, with the letters of `service_id`; None takes the first
      free slot.
    - `buffer_events`, `buffer_bytes`: how much may wait for the disk; the last tenth is kept for critical
      events.
    - `on_unsafe`: text that could mislead a reader, or is too long, is made harmless ("escape"), or `emit`
      raises `InvalidEvent` ("reject").
    - `max_field_chars`: the longest text of a field, in characters. At least 64, so that no SHA-256 is ever
      cut.
    - `max_event_bytes`: the largest event, in bytes of JSON, with what is bound for its task.
    - `redaction`: what is taken out of free-form data before it is recorded.
    - `transparency`: sign checkpoints of the log, as a transparency log does; needs the extra `tlog`.
    - `drain_timeout`: how long an orderly end waits for the disk, in seconds.
    - `handle_signals`: drain on SIGTERM and SIGINT before they take their ordinary course.
    - `allow_insecure_dir`: write also below a base directory that other users can write to.
    - `low_disk_bytes`: report low space when less than this many bytes are left; 0 never does.

    Raises `ConfigError` for a value that is wrong by itself or can't work together with another.
    """

    mode: Annotated[
        Mode,
        Meta(description='Local(base_dir) or Disabled(); in a file a table [mode] with type = "local" or "disabled"'),
    ]
    service_id: _ServiceId = ""
    flush_mode: Annotated[FlushMode, Meta(description="Immediate(), Batched(…) or Hybrid(…)")] = Immediate()
    rotation: Annotated[RotationPolicy, Meta(description="a RotationPolicy")] = RotationPolicy()
    retention: Annotated[RetentionPolicy, Meta(description="a RetentionPolicy")] = RetentionPolicy()
    instance: _InstanceName = None
    buffer_events: Annotated[int, _whole(2, 10_000_000, "events")] = 10_000
    buffer_bytes: Annotated[int, _size(4 * _KIB, _TIB)] = 10 * _MIB
    on_unsafe: Annotated[Literal["escape", "reject"], Meta(description="'escape' or 'reject'")] = "escape"
    max_field_chars: Annotated[int, _whole(64, 64 * _MIB, "characters")] = 1024
    max_event_bytes: Annotated[int, _size(_KIB, 64 * _MIB)] = 64 * _KIB
    redaction: Annotated[Redaction, Meta(description="a Redaction")] = Redaction()
    transparency: Annotated[Transparency | None, Meta(description="left out, or a Transparency")] = None
    drain_timeout: _Seconds = 10.0
    handle_signals: _Flag = True
    allow_insecure_dir: _Flag = False
    low_disk_bytes: Annotated[int, _size(0, _TIB)] = 64 * _MIB

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.service_id and not isinstance(self.mode, Disabled):
            raise ConfigError("service_id", f"missing; allowed: {_NAME_ALLOWED}")
        self._check_event_fits()
        self._check_batch_fits()

    @classmethod
    def load(cls, path: str | os.PathLike[str], **overrides: Unpack[_Overrides]) -> Self:
        r"""Read a TOML file; `overrides` replace whole settings of it, whatever the file says of them.

        Settings stand under their own names, groups are tables, and `type` chooses among several:

            service_id = "orders"
            buffer_bytes = "10MiB"      # or a number of bytes

            [mode]
            type = "local"              # or "disabled"
            base_dir = "/var/lib/audit"

            [flush_mode]
            type = "batched"            # or "immediate", "hybrid"
            size = 100
            interval = 1.0

        A relative `base_dir` counts from the file's directory, not from the current one, and so do the paths of
        `transparency`: a service that is started from elsewhere must go on with the same chain, not begin a second
        one unnoticed.

        Raises `ConfigError`: with the setting's name where a value is wrong or a key unknown, with the file's
        path where the file is missing, unreadable or not TOML. The message never holds the file's text, only
        the value.
        """
        table = _read_toml(path)
        with _naming(lambda field: "" if field.split(".")[0] in overrides else f"in {os.fspath(path)}"):
            config = _build(cls, table | overrides, from_text=False)
        here = Path(path).absolute().parent
        if isinstance(config.mode, Local) and "mode" not in overrides:
            config = msgspec.structs.replace(config, mode=Local(here / config.mode.base_dir))
        if config.transparency is not None and "transparency" not in overrides:
            config = msgspec.structs.replace(config, transparency=config.transparency.below(here))
        return config

    @classmethod
    def from_env(cls, prefix: str = "AUDIT_", environ: Mapping[str, str] | None = None) -> Self:
        """Read the variables that begin with `prefix`, from `os.environ` unless `environ` is given.

        A setting's variable is the prefix and its name in capitals: `AUDIT_SERVICE_ID`, `AUDIT_BUFFER_BYTES`.
        A setting of a group has the group's name before it: `AUDIT_ROTATION_MAX_BYTES`,
        `AUDIT_RETENTION_DELETE_AFTER_DAYS`. Two groups are shorter: `AUDIT_BASE_DIR` alone means `Local`, and
        `AUDIT_FLUSH_MODE=batched` is followed by `AUDIT_FLUSH_SIZE` and `AUDIT_FLUSH_INTERVAL`,
        `AUDIT_FLUSH_MODE=hybrid` by `AUDIT_FLUSH_BATCH_SIZE`, `AUDIT_FLUSH_BATCH_INTERVAL` and
        `AUDIT_FLUSH_CRITICAL_IMMEDIATE`. `AUDIT_MODE=disabled` switches recording off whatever
        `AUDIT_BASE_DIR` says.

        Sizes are bytes or text such as `64MiB`, switches `true`, `false`, `1` or `0`; lists are joined
        by commas. An empty variable counts as not set. Raises `ConfigError` that names setting and variable
        where a value is wrong, and for a variable with the prefix that is no setting; no message holds another
        variable's value.
        """
        if not prefix:
            raise ConfigError("prefix", "must not be empty: every variable of the environment would be a setting")
        variables = _variables(prefix)
        given = {
            name: text
            for name, text in (os.environ if environ is None else environ).items()
            if name.startswith(prefix) and text
        }
        _refuse_unknown(given, variables, "", "variable")
        table = _nested({variables[name]: text for name, text in given.items()})
        _infer_mode(table)
        name_of = {".".join(place): name for name, place in variables.items()}
        name_of["mode"] = f"{name_of['mode.base_dir']} or {name_of['mode.type']}"
        with _naming(lambda field: f"variable {name_of[field]}" if field in name_of else ""):
            return _build(cls, table, from_text=True)

    @classmethod
    def preset(cls, name: PresetName, **overrides: Unpack[_Overrides]) -> Self:
        """Start from the values that follow from a standard or a purpose; `overrides` replace whole settings.

        `mode` and `service_id` are the caller's to give. What each preset sets, and which clause it follows
        from:

        - "gdpr": regulation (EU) 2016/679, art. 5(1)(e), storage limitation: no number, but an end, chosen
          and justified by the controller. 180 days at least, deleted after 365: what the French authority
          (CNIL) recommends for logs. What art. 5(2) needs as evidence for longer wants a horizon of your own.
        - "soc2": AICPA Trust Services Criteria CC7.2 (monitoring): no number. Customary is a year; deleted
          after 455 days, so that the first day of a twelve-month period is there while its auditor samples
          it.
        - "iso27001": ISO/IEC 27001:2022 annex A 8.15 (logging), 5.33 (protection of records), 8.10
          (deletion): no number, the organisation sets it. One to three years are customary; 1096 days span a
          three-year certification cycle.
        - "hipaa": 45 CFR 164.316(b)(2)(i): documentation is kept for 6 years (2192 days with two leap days)
          from its creation or from when it was last in effect; 164.312(b) asks for audit controls and gives
          no number, so the six years are the cautious reading. Deleted after 2555 days.
        - "pci_dss": PCI DSS v4.0, 10.5.1: 12 months (366 days), of which the latest three (92 days) are
          immediately available, so not archived before. Deleted after 397 days, a month past the twelve.
        - "throughput": no standard. Batched, large buffers and segments: a power cut can lose up to 10,000
          records or 1 second, critical ones among them.
        - "home_lab": no standard. Small buffers and segments, a sync every 5 seconds (critical events at
          once) to spare an SD card, deleted after 90 days.

        A preset is a starting point and no legal advice. Raises `ConfigError` for an unknown name and for
        overrides that can't work.
        """
        if name not in _PRESETS:
            raise ConfigError("preset", _unknown("preset", str(name), _PRESETS))
        return _build(cls, {**_PRESETS[name], **overrides}, from_text=False)

    def _check_event_fits(self) -> None:
        """Refuse limits under which the largest event could never be taken."""
        if self.max_field_chars > self.max_event_bytes:
            raise ConfigError(
                "max_field_chars",
                f"{self.max_field_chars} characters do not fit in an event of max_event_bytes = "
                f"{self.max_event_bytes}; give at most that",
            )
        fits = _ordinary_share(self.buffer_bytes) - _RECORD_ROOM
        if self.max_event_bytes > fits:
            raise ConfigError(
                "max_event_bytes",
                f"{self.max_event_bytes} bytes would never fit in the nine tenths of buffer_bytes = "
                f"{self.buffer_bytes} that ordinary events may fill; give at most {fits}, or a larger buffer",
            )

    def _check_batch_fits(self) -> None:
        """Refuse a batch that the buffer can't hold: it would be full before a sync is due."""
        if isinstance(self.flush_mode, Batched):
            name, size = "flush_mode.size", self.flush_mode.size
        elif isinstance(self.flush_mode, Hybrid):
            name, size = "flush_mode.batch_size", self.flush_mode.batch_size
        else:
            return
        fits = _ordinary_share(self.buffer_events)
        if size > fits:
            raise ConfigError(
                name,
                f"a batch of {size} is never full: buffer_events = {self.buffer_events} holds {fits} ordinary "
                f"events; give at most {fits}, or a larger buffer",
            )


def _ordinary_share(bound: int) -> int:
    """Return what ordinary events may fill of a buffer's bound; the rest is kept for critical ones."""
    return bound - max(1, bound // 10)


_PRESETS: Final[dict[str, _Overrides]] = {
    # Where a standard is behind a preset, the flush mode stays Immediate: none of them tolerates a gap.
    "gdpr": {
        "retention": RetentionPolicy(min_retention_days=180, archive_after_days=90, delete_after_days=365),
    },
    "soc2": {
        "retention": RetentionPolicy(min_retention_days=365, archive_after_days=90, delete_after_days=455),
    },
    "iso27001": {
        "retention": RetentionPolicy(min_retention_days=1096, archive_after_days=90, delete_after_days=1096),
    },
    "hipaa": {
        "retention": RetentionPolicy(min_retention_days=2192, archive_after_days=90, delete_after_days=2555),
    },
    "pci_dss": {
        "retention": RetentionPolicy(min_retention_days=366, archive_after_days=92, delete_after_days=397),
    },
    "throughput": {
        "flush_mode": Batched(size=10_000, interval=1.0),
        "rotation": RotationPolicy(max_bytes=1 * _GIB),
        "buffer_events": 200_000,
        "buffer_bytes": 256 * _MIB,
    },
    "home_lab": {
        "flush_mode": Hybrid(batch_size=100, batch_interval=5.0),
        "rotation": RotationPolicy(max_bytes=8 * _MIB),
        "retention": RetentionPolicy(min_retention_days=7, archive_after_days=14, delete_after_days=90),
        "buffer_events": 1_000,
        "buffer_bytes": 1 * _MIB,
        "low_disk_bytes": 16 * _MIB,
    },
}

# -- building from tables and text ---------------------------------------------------------------------------

_G = TypeVar("_G", bound=_Settings | Transparency)


def _build(cls: type[_G], table: Mapping[str, object], *, from_text: bool) -> _G:
    """Make `cls` of a table as a file has it; with `from_text` every value of it is text.

    What is there as a finished object stays as it is, and so does what can't be read: the constructor refuses
    it.
    """
    _refuse_unknown(table, _names(cls), cls._path)
    values: dict[str, Any] = {}  # checked by the group itself
    for field in msgspec.structs.fields(cls):
        if field.name not in table:
            if field.required:
                raise ConfigError(f"{cls._path}{field.name}", f"missing; allowed: {_allowed(field.type)}")
            continue
        given = table[field.name]
        if groups := _groups(field.type):
            values[field.name] = _build_group(field.name, groups, given, from_text=from_text)
        else:
            values[field.name] = _read(given, field.type, from_text=from_text)
    return cls(**values)


def _build_group(name: str, groups: list[type[_Group]], given: object, *, from_text: bool) -> object:
    """Make the group that `given` is the table of; where there are several, its `type` says which."""
    by_tag = {cls.__struct_config__.tag: cls for cls in groups}
    if given is None or isinstance(given, _Settings | Transparency):
        return given
    if not isinstance(given, dict):
        raise ConfigError(name, f"{_shown(given)} is not allowed; allowed: {_table_allowed(name, groups)}")
    if len(groups) == 1:
        return _build(groups[0], given, from_text=from_text)
    members = dict(given)
    tag = members.pop("type", None)
    if tag is None:
        raise ConfigError(f"{name}.type", f"missing; allowed: {_either(by_tag)}")
    if not isinstance(tag, str) or tag not in by_tag:
        hint = _did_you_mean(tag, [str(known) for known in by_tag]) if isinstance(tag, str) else ""
        raise ConfigError(f"{name}.type", f"{_shown(tag)} is not allowed; allowed: {_either(by_tag)}{hint}")
    return _build(by_tag[tag], members, from_text=from_text)


def _read(given: object, type_: object, *, from_text: bool) -> object:
    """Return the value that text stands for; text that stands for none is returned as it is."""
    if not isinstance(given, str) or get_origin(type_) is not Annotated:
        return given
    base, *metas = get_args(type_)
    if any(meta.extra for meta in metas):
        return _bytes_of(given)
    if from_text and base in {int, float, bool}:
        try:
            return msgspec.convert(given, base, strict=False)
        except (msgspec.ValidationError, UnicodeEncodeError):  # os.environ holds stray bytes as surrogates
            return given
    if from_text and get_origin(base) is tuple:
        return [part.strip() for part in given.split(",")]
    return given


def _bytes_of(text: str) -> int | str:
    """Return the bytes that `64MiB`, `64 MB` or `67108864` stand for; `text` itself where it is no size."""
    match = _SIZE.fullmatch(text)
    if match is None:
        return text
    return int(match[1]) * _UNITS[match[2].lower()]


# No more digits than a size can have, so a long number is refused as text and never converted.
_SIZE: Final = re.compile(r"\s*([0-9]{1,18})\s*([KMGT]i?B|B|)\s*", re.ASCII | re.IGNORECASE)
_UNITS: Final = {
    "": 1, "b": 1,
    "kb": 1000, "mb": 1000**2, "gb": 1000**3, "tb": 1000**4,
    "kib": _KIB, "mib": _MIB, "gib": _GIB, "tib": _TIB,
}  # fmt: skip

# -- names, and what to say of a wrong one -------------------------------------------------------------------


def _names(cls: type[Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(cls)]


def _table_allowed(name: str, groups: list[type[_Group]]) -> str:
    """Return what a file may have for a group of settings."""
    chosen = f" with type = {_either(cls.__struct_config__.tag for cls in groups)}" if len(groups) > 1 else ""
    return f"a table [{name}]{chosen}"


def _refuse_unknown(given: Iterable[str], known: Iterable[str], path: str, kind: str = "setting") -> None:
    known = list(known)
    for name in given:
        if name not in known:
            raise ConfigError(f"{path}{_brief(name)}", _unknown(kind, name, known))


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    known = list(known)
    hint = _did_you_mean(name, known) or (f"; there are {', '.join(known)}" if known else "; this type has none")
    return f"no such {kind}{hint}"


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(_brief(name).lower(), {text.lower(): text for text in known}, n=1)
    return "".join(f"; did you mean {text}?" for text in known if close and text.lower() == close[0])


def _brief(name: str) -> str:
    """Return a key as an error shows it: printable and short."""
    return (name if name.isprintable() else ascii(name)[1:-1])[:80]


def _either(tags: Iterable[object]) -> str:
    *others, last = [f'"{tag}"' for tag in tags]
    return f"{', '.join(others)} or {last}" if others else last


@contextmanager
def _naming(source: Callable[[str], str]) -> Iterator[None]:
    """Say in a `ConfigError` where its value came from."""
    try:
        yield
    except ConfigError as error:
        place = source(error.field)
        if not place:
            raise
        raise ConfigError(error.field, f"{error.reason} ({place})") from None


# -- the sources ---------------------------------------------------------------------------------------------


def _read_toml(path: str | os.PathLike[str]) -> dict[str, object]:
    """Read a file's table; `ConfigError` under the file's path where there is none."""
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise ConfigError(name, f"the configuration file can't be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the path
        raise ConfigError(ascii(name)[1:-1], f"no path of a configuration file: {error}") from None
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(name, f"not a TOML file: line {line} is not UTF-8; save it as UTF-8") from None
    except (ValueError, RecursionError) as error:  # beside TOMLDecodeError, an absurd number or nesting
        last_line = content.count(b"\n") + 1
        reason = str(error).replace("at end of document", f"at line {last_line}, the end of the file")
        raise ConfigError(name, f"not a TOML file: {_brief(reason)}") from None


def _variables(prefix: str) -> dict[str, tuple[str, ...]]:
    """Return the place in the table of every variable that is a setting."""
    shorter = {"mode": "", "flush_mode": "FLUSH_"}
    places: dict[str, tuple[str, ...]] = {}
    for field in msgspec.structs.fields(AuditConfig):
        groups = _groups(field.type)
        own = f"{prefix}{field.name.upper()}"
        if not groups:
            places[own] = (field.name,)
        elif len(groups) > 1:
            places[own] = (field.name, "type")
        for group in groups:
            room = f"{prefix}{shorter.get(field.name, f'{field.name.upper()}_')}"
            places |= {f"{room}{name.upper()}": (field.name, name) for name in _names(group)}
    return places


def _nested(flat: Mapping[tuple[str, ...], str]) -> dict[str, object]:
    """Return the table with one text at each place."""
    table: dict[str, object] = {}
    groups: dict[str, dict[str, str]] = {}
    for (name, *rest), text in flat.items():
        if rest:
            groups.setdefault(name, {})[rest[0]] = text
        else:
            table[name] = text
    return table | groups


def _infer_mode(table: dict[str, object]) -> None:
    """A base directory alone means `Local`; `disabled` wins, so one variable switches recording off."""
    mode = table.get("mode")
    if isinstance(mode, dict):
        if mode.get("type") == "disabled":
            mode.pop("base_dir", None)
        mode.setdefault("type", "local")
