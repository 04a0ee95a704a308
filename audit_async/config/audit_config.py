"""`AuditConfig`: all settings of one log, and how they fit together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self, Unpack

import msgspec
from msgspec import Meta

from audit_async.config.environment import DEFAULT_PREFIX, Variables
from audit_async.config.flush_mode import Batched, FlushMode, Hybrid, Immediate
from audit_async.config.forward_settings import Forward
from audit_async.config.mode import Disabled, Local, Mode
from audit_async.config.overrides import Overrides
from audit_async.config.presets import PRESETS, PresetName
from audit_async.config.privacy_settings import Privacy
from audit_async.config.redaction import Redaction
from audit_async.config.segments import RetentionPolicy, RotationPolicy
from audit_async.config.setting import KIB, MIB, TIB, Flag, Seconds, Settings, byte_size, whole_number
from audit_async.config.tables import build
from audit_async.config.transparency import Transparency
from audit_async.config.verification_settings import Verification
from audit_async.config.wording import naming, unknown
from audit_async.errors import ConfigError

#: What a record and its receipt need besides the event's own text, in bytes, rounded up; the buffer counts it too.
RECORD_ROOM: Final = 1024

_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"
_NAME_ALLOWED: Final = "1 to 64 ASCII letters, digits, '.', '_' and '-', a letter or digit first, no '..'"
# An empty one means "left out"; whether it may be depends on the whole configuration.
_ServiceId = Annotated[str, Meta(pattern=rf"^(?!.*\.\.)(?:{_NAME}|\Z)", description=_NAME_ALLOWED)]
_InstanceName = Annotated[
    Annotated[str, Meta(pattern=rf"^(?!.*\.\.){_NAME}")] | None,
    Meta(description=f"left out, or {_NAME_ALLOWED}"),
]


class AuditConfig(Settings, frozen=True, kw_only=True, repr_omit_defaults=True):
    """All settings of one log; frozen, and valid from the moment it exists.

    Args:
        mode: `Local(base_dir)`, or `Disabled()` to record nothing.
        service_id: Whose trail it is. It is in every record and names a directory: 1 to 64 ASCII letters, digits, `.`,
            `_` and `-`, a letter or digit first, no `..`. May be left out (empty) only with `Disabled()`.
        flush_mode: When records become durable, and so what a power cut can lose.
        rotation: How long a segment grows.
        retention: How long a segment is kept.
        instance: The name of this process's chain, with the letters of `service_id`; None takes the first free slot.
        buffer_events: How many events may wait for the disk; the last tenth is kept for critical ones.
        buffer_bytes: How many bytes may wait for the disk, likewise.
        on_unsafe: Text that could mislead a reader, or is too long, is made harmless ("escape"), or `emit` raises
            `InvalidEvent` ("reject").
        max_field_chars: The longest text of a field, in characters. At least 64, so that no SHA-256 is ever cut.
        max_event_bytes: The largest event, in bytes of JSON, with what is bound for its task.
        redaction: What is taken out of free-form data before it is recorded.
        transparency: Sign checkpoints of the log, as a transparency log does; needs the extra `tlog`.
        verification: Verify the log again and again while it is written.
        privacy: Seal what is personal under keys that can be destroyed; needs the extra `privacy`.
        forward: Ship the log to an engine outside of this host, from this process.
        drain_timeout: How long an orderly end waits for the disk, in seconds.
        handle_signals: Drain on SIGTERM and SIGINT before they take their ordinary course.
        allow_insecure_dir: Write also below a base directory that other users can write to.
        low_disk_bytes: Report low space when less than this many bytes are left; 0 never does.

    Raises:
        ConfigError: If a value is wrong by itself or can't work together with another, or a keyword is misspelt.
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
    buffer_events: Annotated[int, whole_number(2, 10_000_000, "events")] = 10_000
    buffer_bytes: Annotated[int, byte_size(4 * KIB, TIB)] = 10 * MIB
    on_unsafe: Annotated[Literal["escape", "reject"], Meta(description="'escape' or 'reject'")] = "escape"
    max_field_chars: Annotated[int, whole_number(64, 64 * MIB, "characters")] = 1024
    max_event_bytes: Annotated[int, byte_size(KIB, 64 * MIB)] = 64 * KIB
    redaction: Annotated[Redaction, Meta(description="a Redaction")] = Redaction()
    transparency: Annotated[Transparency | None, Meta(description="left out, or a Transparency")] = None
    verification: Annotated[Verification | None, Meta(description="left out, or a Verification")] = None
    privacy: Annotated[Privacy | None, Meta(description="left out, or a Privacy")] = None
    forward: Annotated[Forward | None, Meta(description="left out, or a Forward")] = None
    drain_timeout: Seconds = 10.0
    handle_signals: Flag = True
    allow_insecure_dir: Flag = False
    low_disk_bytes: Annotated[int, byte_size(0, TIB)] = 64 * MIB

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.service_id and not isinstance(self.mode, Disabled):
            raise ConfigError("service_id", f"missing; allowed: {_NAME_ALLOWED}")
        if isinstance(self.mode, Local) and not self.allow_insecure_dir and (field := self.mode.writable_by_others):
            raise ConfigError(
                field, "it lets other users write to the log; take away their right to write, or set allow_insecure_dir"
            )
        if self.verification is not None and isinstance(self.mode, Local):
            self.verification.refuse_within(self.mode.base_dir)
        self._check_event_fits()
        self._check_batch_fits()
        self._check_forgetting()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        env_prefix: str | None = None,
        environ: Mapping[str, str] | None = None,
        **overrides: Unpack[Overrides],
    ) -> Self:
        r"""Read a TOML file; with `env_prefix` also the environment, whose variables replace settings of the file.

        Settings have their own names, groups are tables, and `type` chooses among several:

            service_id = "orders"
            buffer_bytes = "10MiB"      # or a number of bytes

            [mode]
            type = "local"              # or "disabled"
            base_dir = "/var/lib/audit"

            [flush_mode]
            type = "batched"            # or "immediate", "hybrid"
            size = 100
            interval = 1.0

        `AuditConfig.load("audit.toml", env_prefix="AUDIT_")` takes the file that a service ships, and then what the
        deployment says: `AUDIT_BASE_DIR=/data/audit`, `AUDIT_FLUSH_MODE=batched`; the names are those of `from_env`.
        A variable that chooses another kind of group drops what the file says of the first one.

        A relative `base_dir` counts from the file's directory, not from the current one, and so do the paths of
        `transparency`, `verification` and `privacy`, those of variables too: a service that is started from elsewhere
        must go on with the same chain, not begin a second one unnoticed.

        Args:
            path: The file.
            env_prefix: What the variables that count begin with; None reads no environment.
            environ: The variables, `os.environ` if left out.
            **overrides: Settings by name, as the constructor takes them. They replace whole settings, whatever the
                file and the environment say of them.

        Raises:
            ConfigError: With the setting's name if a value is wrong or a key unknown, with the file's path if the file
                is missing, unreadable or not TOML. The message never holds the file's text, only the value. For a
                variable as `from_env`.
        """
        from audit_async.config.toml_file import read_toml  # noqa: PLC0415 - a tenth of what importing the room takes

        table = read_toml(path)
        variables = None if env_prefix is None else Variables(cls, env_prefix, environ)
        if variables is not None:
            table = variables.over(table)

        def source(field: str) -> str:
            if field.split(".", maxsplit=1)[0] in overrides:
                return ""
            if variables is not None and variables.gives(field):
                return f"variable {variables.name_of(field)}"
            return f"in {os.fspath(path)}"

        with naming(source):
            config = build(cls, table | overrides)
        here = Path(path).absolute().parent
        if isinstance(config.mode, Local) and "mode" not in overrides and not Path(config.mode.base_dir).is_absolute():
            mode = msgspec.structs.replace(config.mode, base_dir=here / config.mode.base_dir)
            config = msgspec.structs.replace(config, mode=mode)
        if config.transparency is not None and "transparency" not in overrides:
            config = msgspec.structs.replace(config, transparency=config.transparency.below(here))
        if config.verification is not None and "verification" not in overrides:
            config = msgspec.structs.replace(config, verification=config.verification.below(here))
        if config.privacy is not None and "privacy" not in overrides:
            config = msgspec.structs.replace(config, privacy=config.privacy.below(here))
        return config

    @classmethod
    def from_env(cls, prefix: str = DEFAULT_PREFIX, environ: Mapping[str, str] | None = None) -> Self:
        """Read the variables that begin with `prefix`, from `os.environ` unless `environ` is given.

        A setting's variable is the prefix and its name in capitals: `AUDIT_SERVICE_ID`, `AUDIT_BUFFER_BYTES`.
        A setting of a group has the group's name before it: `AUDIT_ROTATION_MAX_BYTES`,
        `AUDIT_RETENTION_DELETE_AFTER_DAYS`. Two groups are shorter: `AUDIT_BASE_DIR` alone means `Local`, and
        `AUDIT_FLUSH_MODE=batched` is followed by `AUDIT_FLUSH_SIZE` and `AUDIT_FLUSH_INTERVAL`,
        `AUDIT_FLUSH_MODE=hybrid` by `AUDIT_FLUSH_BATCH_SIZE`, `AUDIT_FLUSH_BATCH_INTERVAL` and
        `AUDIT_FLUSH_CRITICAL_IMMEDIATE`. `AUDIT_MODE=disabled` switches recording off whatever
        `AUDIT_BASE_DIR` says.

        Sizes are bytes or text such as `64MiB`, switches `true`, `false`, `1` or `0`; lists are joined
        by commas. An empty variable counts as not set.

        Args:
            prefix: What the variables begin with; not empty.
            environ: The variables, `os.environ` if left out.

        Raises:
            ConfigError: With the setting and the variable if a value is wrong, and for a variable that looks like a
                misspelt one. Another with the prefix that is no setting is ignored, with a warning in the log. No
                message holds another variable's value.
        """
        variables = Variables(cls, prefix, environ)

        def source(field: str) -> str:
            return f"variable {variables.name_of(field)}" if variables.name_of(field) else ""

        with naming(source):
            return build(cls, variables.over({}))

    @classmethod
    def preset(cls, name: PresetName, **overrides: Unpack[Overrides]) -> Self:
        """Start from the values that follow from a standard or a purpose; `overrides` replace whole settings.

        `mode` and `service_id` are the caller's to give. What each preset sets, and which clause it follows
        from:

        - "gdpr": regulation (EU) 2016/679, art. 5(1)(e), storage limitation: no number, but an end, chosen
          and justified by the controller. 180 days at least, deleted after 365: what the French authority
          (CNIL) recommends for logs. What art. 5(2) needs as evidence for longer wants a horizon of your own.
          `privacy` has to be given, None if nothing is to be sealed: art. 17 asks who can be erased, and how.
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
        - "eu_ai_act": regulation (EU) 2024/1689, art. 12 (high-risk systems record events automatically), art. 19(1)
          and 26(6): providers and deployers keep these logs for at least six months, 184 days at the most; other law
          may ask for longer, and data protection for an end. Deleted after two years. The events of agents are in
          `audit_async.events.agents`.
        - "throughput": no standard. Batched, large buffers and segments: a power cut can lose up to 10,000
          records or 1 second, critical ones among them.
        - "home_lab": no standard. Small buffers and segments, a sync every 5 seconds (critical events at
          once) to spare an SD card, deleted after 90 days.

        A preset is a starting point and no legal advice.

        Args:
            name: The preset.
            **overrides: Settings by name, as the constructor takes them; `mode` and `service_id` among them.

        Raises:
            ConfigError: If the name is unknown, or the overrides can't work.
        """
        if name not in PRESETS:
            raise ConfigError("preset", unknown("preset", str(name), PRESETS))
        if name == "gdpr" and "privacy" not in overrides:
            raise ConfigError(
                "privacy",
                "missing: the preset gdpr wants it decided; give Privacy(...), so that a person can be erased, or "
                "privacy=None if nothing is to be sealed",
            )
        return build(cls, {**PRESETS[name], **overrides})

    def _check_event_fits(self) -> None:
        """Refuse limits under which the largest event could never be taken."""
        if self.max_field_chars > self.max_event_bytes:
            raise ConfigError(
                "max_field_chars",
                f"{self.max_field_chars} characters do not fit in an event of max_event_bytes = "
                f"{self.max_event_bytes}; give at most that",
            )
        fits = _ordinary_share(self.buffer_bytes) - RECORD_ROOM
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

    def _check_forgetting(self) -> None:
        """Refuse to forget what is personal before the records that it is in may be deleted, unless that is meant."""
        privacy, kept_days = self.privacy, self.retention.min_retention_days
        if privacy is None or privacy.forget_after_days is None or privacy.forget_before_retention:
            return
        if privacy.forget_after_days < kept_days:
            raise ConfigError(
                "privacy.forget_after_days",
                f"{privacy.forget_after_days} days is less than retention.min_retention_days = {kept_days}: records "
                "would be kept and what is personal in them would not; forget later, or set forget_before_retention",
            )


def _ordinary_share(bound: int) -> int:
    """Return what ordinary events may fill of a buffer's bound; the rest is kept for critical ones."""
    return bound - max(1, bound // 10)
