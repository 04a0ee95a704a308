"""Shipping a log from within the process that writes it."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Final

from msgspec import Meta

from audit_async.config.setting import Seconds, Settings
from audit_async.errors import ConfigError

_TO_ALLOWED: Final = (
    "an engine's URL without a password: postgres://ROLE@HOST/DATABASE?passfile=FILE, nats://HOST:4222?nkey=FILE or "
    "file:///DIRECTORY"
)
_SCHEMES: Final = frozenset({"postgres", "postgresql", "nats", "tls", "file"})
_SEED: Final = re.compile(r"=S[A-Z][A-Z2-7]{56}")  # of an NKey, in place of its file
_NAME_ALLOWED: Final = "1 to 128 characters without a slash or a control character"
_Name = Annotated[str, Meta(pattern=r"^[^/\x00-\x1f\x7f]{1,128}\Z", description=_NAME_ALLOWED)]
_HostName = Annotated[
    Annotated[str, Meta(pattern=r"^[^/\x00-\x1f\x7f]{1,128}\Z")] | None,
    Meta(description=f"left out, or {_NAME_ALLOWED}"),
]


class Forward(Settings, frozen=True, kw_only=True):
    """An open log is shipped to an engine by its own process, as its records become durable.

    Recording never waits for it, and it keeps nothing: the log is the buffer. A sidecar, `audit-async forward`, does
    the same for all logs of a host and takes no time of the service's event loop; this is for a service that has to
    know, with `await receipt.replicated()`, that a record is elsewhere, or that can have no process next to it.

    Args:
        to: The engine's URL, as `audit-async engine grant` prints it; its secret is in a file.
        tenant: Whose log it is.
        host: What this machine is called in the engine; its host name if left out.
        collector_keys: The verifier keys of the collectors that are trusted, as `audit-async keys show` prints them;
            `replicated()` waits for one of these unless it is asked otherwise.
        close_timeout: How long an orderly end waits for the engine, in seconds, after everything is durable here. What
            is not shipped then stays in the log, for the next start or a sidecar.

    Raises:
        ConfigError: If a value is not allowed.
    """

    _path: ClassVar[str] = "forward."

    to: Annotated[str, Meta(description=_TO_ALLOWED)]
    tenant: _Name
    host: _HostName = None
    collector_keys: Annotated[tuple[str, ...], Meta(description="a list of verifier keys")] = ()
    close_timeout: Seconds = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        # The value is in no message: a URL that is refused may hold a secret.
        if self.to.partition("://")[0].lower() not in _SCHEMES or "://" not in self.to:
            raise ConfigError("forward.to", f"no engine has such a URL; allowed: {_TO_ALLOWED}")
        if not self.to.startswith("file:") and has_password(self.to):
            raise ConfigError("forward.to", f"it holds a password or a token; allowed: {_TO_ALLOWED}")


def has_password(url: str) -> bool:
    """Return whether a URL holds a password or a token: one that does must not be where others may see it.

    A command line is in the list of processes, which every user of the machine sees, and settings are printed. In case
    of doubt it is one: a URL that no engine can read is not shown either.
    """
    scheme, _, rest = url.partition("://")
    place, _, options = rest.partition("?")
    # A question mark in a password begins no options for libpq, which looks for the @ as far as the first slash.
    users = (place.rpartition("@")[0], rest.partition("/")[0].rpartition("@")[0])
    names_a_role = scheme in {"postgres", "postgresql"}
    has_user = any(":" in user or bool(user and not names_a_role) for user in users)
    return has_user or "password=" in options or _SEED.search(options) is not None
