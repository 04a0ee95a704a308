"""The settings of a transparency log: keys, origin, how often, which directory, which witnesses.

Checks what can be checked without touching the disk, and loads no cryptography, so that a configuration can be read
without the extra `tlog`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, Self

from msgspec import Meta, Struct
from msgspec.structs import force_setattr, replace

from audit_async.config.settings_class import SettingsClass
from audit_async.errors import ConfigError

#: Signs a message with an Ed25519 key that stays elsewhere. A function that is not `async` is called in a worker
#: thread, so it may block.
SignFunction = Callable[[bytes], bytes | Awaitable[bytes]]

_LONGEST_INTERVAL_S: Final = 86_400.0
_LEAST_EVERY: Final = 1


class ExternalKey(Struct, metaclass=SettingsClass, frozen=True, kw_only=True):
    """A signing key in a KMS or HSM: its public half, and how to ask for a signature."""

    _path: ClassVar[str] = "transparency.key."

    public_key: bytes  #: 32 bytes, Ed25519
    sign: SignFunction

    def __post_init__(self) -> None:
        public_key: object = self.public_key
        if not isinstance(public_key, bytes) or len(public_key) != 32:
            raise ConfigError("transparency.key", "an ExternalKey's public_key is the 32 bytes of an Ed25519 key")
        if not callable(self.sign):
            raise ConfigError("transparency.key", "an ExternalKey's sign takes a message and returns its signature")


#: The source of a key, or of the passphrase of one: the path of a file, `credential:NAME` for a file in systemd's
#: $CREDENTIALS_DIRECTORY, `env:VARIABLE` for an environment variable's content.
SecretSource = str | os.PathLike[str]
KeySource = SecretSource | ExternalKey


class Transparency(Struct, metaclass=SettingsClass, frozen=True, kw_only=True):
    """A log publishes signed checkpoints of itself.

    Args:
        key: The source of the signing key. Several keys all sign: to change a key, name both for a while, the new one
            first, until everybody who verifies knows it. A variable has several joined by commas.
        passphrase: The source of the passphrase of encrypted PEM keys.
        origin: The log's name in its checkpoints, for ever; None is `<host>/<service_id>/<instance>`.
        interval: A checkpoint at least this many seconds after a new record.
        every: Also after this many new records.
        publish_dir: A directory for checkpoint, tiles and bundles, readable by all, for a static web server to publish.
            It is this log's alone: each worker of a service has a log of its own, and needs one of its own. `.lock`
            in it is for that, readable by the service only. None is `tlog/` in the log's directory, readable by its
            owner.
        witnesses: Who is asked for cosignatures, each as `"<vkey> <url>"`; those of the policy that have a URL are
            asked too.
        policy: The path of a tlog-policy file that says which cosignatures make a checkpoint valid.
        guard: A file outside of what is backed up and restored with the log, better on another host's disk, that
            remembers the last signed checkpoint; with it, a log that came back from a backup is found out before it
            signs.
        witness_timeout: Seconds that a witness has for its answer; nothing else waits for it.

    Raises:
        ConfigError: If a value is not allowed.
    """

    _path: ClassVar[str] = "transparency."  # its place in AuditConfig, for its messages

    key: KeySource | tuple[KeySource, ...]
    passphrase: SecretSource | None = None
    origin: str | None = None
    interval: Annotated[float, Meta(description="seconds")] = 60.0
    every: Annotated[int, Meta(description="records")] | None = None
    publish_dir: str | os.PathLike[str] | None = None
    witnesses: Annotated[tuple[str, ...], Meta(description='each "<vkey> <url>"')] = ()
    policy: str | os.PathLike[str] | None = None
    guard: str | os.PathLike[str] | None = None
    witness_timeout: Annotated[float, Meta(description="seconds")] = 10.0

    def __post_init__(self) -> None:
        key: object = self.key
        if isinstance(key, list):  # as a file has several
            force_setattr(self, "key", tuple(key))
        if not self.keys or not all(isinstance(key, ExternalKey) or _is_path(key) for key in self.keys):
            raise ConfigError(
                "transparency.key", "give a path, credential:NAME, env:VARIABLE, an ExternalKey, or several"
            )
        _refuse_secrets("transparency.key", self.keys)
        _refuse_secrets("transparency.passphrase", (self.passphrase,))
        for field in ("passphrase", "publish_dir", "policy", "guard"):
            value = getattr(self, field)
            if value is not None and not _is_path(value):
                raise ConfigError(f"transparency.{field}", "give a path, not empty and not beginning with ~")
        if self.origin is not None and not is_origin(self.origin):
            raise ConfigError("transparency.origin", "one line without spaces, plus or control characters, not empty")
        for field in ("interval", "witness_timeout"):
            seconds = getattr(self, field)
            if not _is_number(seconds) or not 0.001 <= seconds <= _LONGEST_INTERVAL_S:
                raise ConfigError(f"transparency.{field}", f"seconds from 0.001 to {_LONGEST_INTERVAL_S:.0f}")
            force_setattr(self, field, float(seconds))
        every: object = self.every
        if every is not None and (not isinstance(every, int) or isinstance(every, bool) or every < _LEAST_EVERY):
            raise ConfigError("transparency.every", "left out, or a whole number of records from 1")
        force_setattr(self, "witnesses", tuple(self.witnesses))
        lines: tuple[object, ...] = self.witnesses
        for line in lines:
            if not isinstance(line, str) or len(line.split()) != 2:
                raise ConfigError("transparency.witnesses", 'each is text of the form "<vkey> <url>"')

    @property
    def keys(self) -> tuple[KeySource, ...]:
        """The signing keys' sources, always as several."""
        return self.key if isinstance(self.key, tuple) else (self.key,)

    def below(self, directory: Path) -> Self:
        """Return the same with relative paths counted from `directory`: for settings that come from a file there."""

        def place(source: KeySource) -> KeySource:
            if isinstance(source, ExternalKey) or secret_kind(source)[0] != "file":
                return source
            return str(directory / source)

        keys = tuple([place(key) for key in self.keys])
        return replace(
            self,
            key=keys if isinstance(self.key, tuple) else keys[0],
            passphrase=None if self.passphrase is None else place(self.passphrase),
            publish_dir=None if self.publish_dir is None else str(directory / self.publish_dir),
            policy=None if self.policy is None else str(directory / self.policy),
            guard=None if self.guard is None else str(directory / self.guard),
        )

    def is_due(self, *, new_records: int, elapsed_s: float) -> bool:
        """Return whether a checkpoint is due.

        `new_records` counts the records since the last checkpoint without the one that records it; else an idle log
        would go on making checkpoints of its own checkpoints. `elapsed_s` is the time since the last one.
        """
        if new_records <= 0:
            return False
        return elapsed_s >= self.interval or (self.every is not None and new_records >= self.every)


def default_origin(host: str, service_id: str, instance: str) -> str:
    """Return a log's name if the configuration gives none; raises `ConfigError` for a host that can't be part."""
    origin = f"{host}/{service_id}/{instance}"
    if not host or not is_origin(origin):
        raise ConfigError("transparency.origin", f"the host's name {host[:100]!a} can't be part of one; name the log")
    return origin


def is_origin(text: object) -> bool:
    """Return whether a log may be called so: its key bears the same name, so what holds for key names holds here."""
    return (
        isinstance(text, str)
        and bool(text)
        and "+" not in text
        and text.isprintable()
        and not any(character.isspace() for character in text)
    )


#: 32 bytes as hex, or as base64 with its padding; the seed of an NKey.
_KEY_IN_TEXT: Final = re.compile(r"[0-9A-Fa-f]{64}|[A-Za-z0-9+/_-]{43}=|S[A-Z][A-Z2-7]{56}")


def secret_kind(source: SecretSource) -> tuple[Literal["file", "credential", "env"], str]:
    """Return what kind of source it is, and its path or name."""
    text = os.fspath(source)
    if isinstance(source, str):
        kind, colon, name = text.partition(":")
        if colon and kind == "credential":
            return "credential", name
        if colon and kind == "env":
            return "env", name
    return "file", text


def is_secret_itself(text: str) -> bool:
    """Return whether a text that should name where a secret is seems to be the secret: PEM, or a key of 32 bytes."""
    return (
        any(mark in text for mark in ("\n", "\r", "-----BEGIN", "PRIVATE+KEY+", "AGE-SECRET-KEY-"))
        or _KEY_IN_TEXT.fullmatch(text) is not None
    )


def _refuse_secrets(field: str, sources: tuple[KeySource | None, ...]) -> None:
    if any(isinstance(source, str) and is_secret_itself(source) for source in sources):
        raise ConfigError(field, "it holds the content itself; give a path, credential:NAME or env:VARIABLE")


def _is_path(value: object) -> bool:
    if not isinstance(value, str | os.PathLike):
        return False
    text = os.fspath(value)
    return isinstance(text, str) and bool(text) and not text.startswith("~") and "\0" not in text


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
