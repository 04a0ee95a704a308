"""The settings of a deliverer: what `deliver.toml` says, checked when it is read.

A file has the trail, the state directory, and a table `[[sink]]` for each receiver. Secrets are never in it: a setting
names the file, the variable or systemd's credential that holds one.
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from typing import Annotated, Any, ClassVar, Final
from urllib.parse import SplitResult, urlsplit

from msgspec import Meta

from audit_async._query.audit_query import AuditQuery
from audit_async.config.setting import MIB, Flag, Seconds, Settings, byte_size, whole_number
from audit_async.config.tables import build
from audit_async.config.toml_file import read_toml
from audit_async.config.wording import either, refuse_unknown
from audit_async.delivery.query_tables import query_of
from audit_async.errors import ConfigError

__all__ = [
    "AlertSettings",
    "DeliverSettings",
    "FileSettings",
    "HttpSettings",
    "OtlpSettings",
    "SinkSettings",
    "StdoutSettings",
    "SyslogSettings",
    "read_deliver_settings",
]

_Text = Annotated[str, Meta(min_length=1, max_length=4096, description="a text of 1 to 4096 characters")]
_MaybeText = Annotated[
    Annotated[str, Meta(min_length=1, max_length=4096)] | None,
    Meta(description="left out, or a text of 1 to 4096 characters"),
]
_SOURCES: Final = "left out, or file:/PATH, env:NAME or credential:NAME; never the secret itself"
_SECRET_SOURCE: Final = re.compile(r"file:/|/|env:.|credential:.")
_Secret = Annotated[str | None, Meta(description=_SOURCES)]
_Texts = Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(description="a list of texts, none empty")]
_Questions = Annotated[tuple[dict[str, Any], ...], Meta(description="a table of a query's terms, or a list of them")]
_Name = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9_-]{0,63}\Z",
        description="1 to 64 lower-case letters, digits, - and _, beginning with a letter or a digit",
    ),
]
_FormatName = Annotated[str, Meta(pattern=r"^(record|ocsf|ecs|cef)\Z", description='"record", "ocsf", "ecs" or "cef"')]
_Payload = Annotated[str, Meta(pattern=r"^(json|ndjson|hec|bulk)\Z", description='"json", "ndjson", "hec" or "bulk"')]
_HTTP_SCHEMES: Final = frozenset({"http", "https"})
_SYSLOG_SCHEMES: Final = frozenset({"tls", "tcp", "udp", "unix"})


class SinkSettings(Settings, frozen=True, kw_only=True):
    """What all sinks have.

    Args:
        name: What the sink is called; its position is kept under this name, so another name begins from the beginning.
        format: What a record is turned into.
        services: Only logs of these services; all if left out.
        select: Only records that one of these queries wants, in the terms of `AuditQuery`; all if left out. Erasures
            and the deliverer's own problems are delivered always.
        exclude: Not the records that one of these queries wants.
        redact: Members that the receiver does not get, such as `event.actor.ip`; `[redacted]` is in their place.
        unseal: Whether sealed members are opened; needs the key store. Sealed by default.
        max_records: How many records are sent at a time.
        max_bytes: How many bytes are sent at a time, unless it is a single record.
        timeout_s: How long the receiver has for an answer.

    Raises:
        ConfigError: If a value is not allowed.
    """

    _path: ClassVar[str] = "sink."

    name: _Name
    format: _FormatName = "record"
    services: _Texts = ()
    select: _Questions = ()
    exclude: _Questions = ()
    redact: _Texts = ()
    unseal: Flag = False
    max_records: Annotated[int, whole_number(1, 100_000, "records")] = 1000
    max_bytes: Annotated[int, byte_size(1024, 64 * MIB)] = MIB
    timeout_s: Seconds = 30.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.queries("select")
        self.queries("exclude")
        for path in self.redact:
            if path.partition(".")[0] not in {"event", "context"} or path.partition(".")[2] in {"", "event_type"}:
                raise ConfigError(
                    f"sink.{self.name}.redact",
                    f"{path[:80]!a} is not allowed; allowed: members of the event or of the context, such as "
                    "event.actor.ip",
                )

    def queries(self, member: str) -> list[AuditQuery]:
        """Return the queries of `select` or `exclude`; raises `ConfigError`."""
        return [query_of(f"sink.{self.name}.{member}", table) for table in getattr(self, member)]


class _EncryptedSettings(SinkSettings, frozen=True, kw_only=True):
    """What sinks have that may speak TLS."""

    ca_file: _MaybeText = None
    client_cert: _MaybeText = None
    client_key: _MaybeText = None

    def __post_init__(self) -> None:
        for secret in ("token", "hmac_key"):
            given = getattr(self, secret, None)
            if given is not None and (not isinstance(given, str) or not _SECRET_SOURCE.match(given)):
                # Before any other check, which would show the value.
                raise ConfigError(f"sink.{secret}", f"it is no source of a secret; allowed: {_SOURCES}")
        super().__post_init__()
        if self.client_key is not None and self.client_cert is None:
            raise ConfigError(f"sink.{self.name}.client_key", "it needs client_cert, the certificate of this key")


class HttpSettings(_EncryptedSettings, frozen=True, kw_only=True, tag="http"):
    """Records are sent with POST, and delivered if the answer is 2xx.

    Args:
        url: Where to; `env:NAME` or `credential:NAME` if the URL itself is a secret.
        payload: `json`: an array; `ndjson`: a line for each; `hec`: Splunk's HTTP Event Collector; `bulk`:
            Elasticsearch's and OpenSearch's bulk interface, with the audit_id as the document's id.
        token: The secret that is sent in a header.
        token_scheme: What precedes the token: `Splunk`, `ApiKey`; nothing if empty.
        header_name: The header of the token.
        hmac_key: The secret that each request is signed with, in `Audit-Signature`.
        gzip: Whether bodies are compressed.
        index: The index, with `hec` and `bulk`.
        source_type: With `hec`, the source type.
        count_url: With GET, answers with a JSON object that says how many records of a log the receiver has; for
            `deliver --reconcile`. `{log_id}` in it is replaced.
        allow_unencrypted: Whether http:// may be used to another machine.
        ca_file: The certificates that the receiver's must be signed by, in PEM; the system's by default.
        client_cert: The certificate that this client shows, in PEM.
        client_key: Its key, in PEM.

    Raises:
        ConfigError: If a value is not allowed.
    """

    url: _Text
    payload: _Payload = "ndjson"
    token: _Secret = None
    token_scheme: Annotated[str, Meta(max_length=64, description="a text, empty for none")] = "Bearer"  # noqa: S105 - the scheme, not a secret
    header_name: _Text = "Authorization"
    hmac_key: _Secret = None
    gzip: Flag = False
    index: _MaybeText = None
    source_type: _MaybeText = None
    count_url: _MaybeText = None
    allow_unencrypted: Flag = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_http_url(self.url, f"sink.{self.name}.url", allow_unencrypted=self.allow_unencrypted)
        if self.count_url is not None:  # the token goes there as well
            address = self.count_url.replace("{log_id}", "id")
            require_http_url(address, f"sink.{self.name}.count_url", allow_unencrypted=self.allow_unencrypted)
        if self.payload == "bulk" and self.index is None:
            raise ConfigError(f"sink.{self.name}.index", "missing; bulk needs the name of an index or a data stream")
        if self.payload == "bulk" and self.format == "cef":
            raise ConfigError(f"sink.{self.name}.format", "bulk takes JSON only: record, ocsf or ecs")


class OtlpSettings(_EncryptedSettings, frozen=True, kw_only=True, tag="otlp"):
    """Records are sent as log records of OpenTelemetry, with OTLP over HTTP in protobuf.

    Args:
        url: Where to, its path included: `https://collector.example:4318/v1/logs`.
        token: The secret that is sent in a header.
        token_scheme: What precedes the token.
        header_name: The header of the token.
        gzip: Whether bodies are compressed.
        allow_unencrypted: Whether http:// may be used to another machine.
        ca_file: The certificates that the receiver's must be signed by, in PEM; the system's by default.
        client_cert: The certificate that this client shows, in PEM.
        client_key: Its key, in PEM.

    Raises:
        ConfigError: If a value is not allowed.
    """

    url: _Text
    token: _Secret = None
    token_scheme: Annotated[str, Meta(max_length=64, description="a text, empty for none")] = "Bearer"  # noqa: S105 - the scheme, not a secret
    header_name: _Text = "Authorization"
    gzip: Flag = False
    allow_unencrypted: Flag = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_http_url(self.url, f"sink.{self.name}.url", allow_unencrypted=self.allow_unencrypted)


class SyslogSettings(_EncryptedSettings, frozen=True, kw_only=True, tag="syslog"):
    """Records are sent as messages of RFC 5424, which no receiver confirms.

    Args:
        url: `tls://HOST:6514` (RFC 5425), `tcp://HOST:514` (RFC 6587), `udp://HOST:514` (RFC 5426) or `unix:///PATH`.
        facility: The number of the facility; 13 is the audit log.
        overlap_s: After a broken connection, what was sent in so many seconds before is sent again.
        ca_file: The certificates that the receiver's must be signed by, in PEM; the system's by default.
        client_cert: The certificate that this client shows, in PEM.
        client_key: Its key, in PEM.

    Raises:
        ConfigError: If a value is not allowed.
    """

    url: _Text
    facility: Annotated[int, whole_number(0, 23, "the facility")] = 13
    overlap_s: Annotated[float, Meta(ge=0, le=86_400, description="seconds from 0 to 86400")] = 60.0

    def __post_init__(self) -> None:
        super().__post_init__()
        field = f"sink.{self.name}.url"
        parts = split_url(self.url, field)
        if parts.scheme not in _SYSLOG_SCHEMES:
            raise ConfigError(field, "allowed: tls://HOST:6514, tcp://HOST:514, udp://HOST:514 or unix:///PATH")
        if (parts.scheme == "unix") != bool(parts.path.strip("/")) or (parts.scheme != "unix") != bool(parts.hostname):
            raise ConfigError(field, "give tls://, tcp:// or udp:// a host and no path, and unix:// a path and no host")


class FileSettings(SinkSettings, frozen=True, kw_only=True, tag="file"):
    """Records are appended to a file, a line each, for a shipper that follows it.

    Args:
        path: The file; its directory must be there.
        rotate_bytes: When it has so many bytes, it is renamed to `PATH.1`, and a new one is begun.
        keep_files: How many renamed files are kept.

    Raises:
        ConfigError: If a value is not allowed.
    """

    path: _Text
    rotate_bytes: Annotated[int, byte_size(1024, 1 << 40)] = 100 * MIB
    keep_files: Annotated[int, whole_number(1, 1000, "files")] = 5


class StdoutSettings(SinkSettings, frozen=True, kw_only=True, tag="stdout"):
    """Records are written to standard output, a line each."""


class AlertSettings(SinkSettings, frozen=True, kw_only=True, tag="alerts"):
    """Rules are applied to the records, and each alert is recorded in the deliverer's own log.

    Args:
        rules: The file with the rules; the starter set if left out.

    Raises:
        ConfigError: If a value is not allowed.
    """

    rules: _MaybeText = None


#: By their `type`.
_TYPES: Final[dict[str, type[SinkSettings]]] = {
    "http": HttpSettings,
    "syslog": SyslogSettings,
    "otlp": OtlpSettings,
    "file": FileSettings,
    "stdout": StdoutSettings,
    "alerts": AlertSettings,
}


class DeliverSettings(Settings, frozen=True, kw_only=True):
    """A deliverer: which trail, to which sinks.

    Args:
        state_dir: The directory of the positions, which only one deliverer may use; made if it is not there.
        sinks: The sinks, at least one.
        base_dir: The base directory of the trail, a service's directory in it, or a log's.
        own_log: The base directory of the deliverer's own log; the trail's own by default, unless it is a collector's.
        key_store: The key store's directory, for sinks with `unseal`.
        master_key: The source of its master key.
        host: What this machine is called; its host name if left out.
        event_modules: Modules that define the service's own events, such as `shop.events`; they are imported, so that
            the formats know what a class says of its delivery.

    Raises:
        ConfigError: If a value is not allowed.
    """

    state_dir: _Text
    sinks: Annotated[tuple[Any, ...], Meta(min_length=1, description="at least one table [[sink]]")]
    base_dir: _MaybeText = None
    own_log: _MaybeText = None
    key_store: _MaybeText = None
    master_key: _MaybeText = None
    host: _MaybeText = None
    event_modules: _Texts = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [sink.name for sink in self.sinks]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(
                    "sink.name", f"two sinks are called {name}; each needs a name, and a position, of its own"
                )
        for sink in self.sinks:
            if sink.unseal and (self.key_store is None or self.master_key is None):
                raise ConfigError(
                    f"sink.{sink.name}.unseal", "it needs key_store and master_key, at the top of the file"
                )


def read_deliver_settings(path: str | os.PathLike[str]) -> DeliverSettings:
    """Return what a file says.

    Args:
        path: The file, in TOML.

    Raises:
        ConfigError: It can't be read, or a value is not allowed; the message names the file.
    """
    table = read_toml(path)
    try:
        return _build(table)
    except ConfigError as error:
        raise ConfigError(error.field, f"{error.reason} (in {os.fspath(path)})") from None


def _build(table: dict[str, object]) -> DeliverSettings:
    given = table.pop("sink", [])
    refuse_unknown(table, ["sink" if name == "sinks" else name for name in DeliverSettings.__struct_fields__], "")
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise ConfigError("sink", "it is not a list of tables; write [[sink]] for each sink")
    return build(DeliverSettings, {**table, "sinks": tuple(map(_sink, given))})


def _sink(table: dict[str, object]) -> SinkSettings:
    members = dict(table)
    tag = members.pop("type", None)
    if not isinstance(tag, str) or tag not in _TYPES:
        what = "missing" if tag is None else "no sink is of this type"
        raise ConfigError("sink.type", f"{what}; allowed: {either(_TYPES)}")
    for member in ("select", "exclude"):
        if isinstance(members.get(member), dict):
            members[member] = [members[member]]
    try:
        return build(_TYPES[tag], members)
    except ConfigError as error:
        name = members.get("name")
        if error.field.startswith("sink.") and isinstance(name, str) and not error.field.startswith(f"sink.{name}."):
            raise ConfigError(f"sink.{name[:64]}.{error.field.removeprefix('sink.')}", error.reason) from None
        raise


def split_url(url: str, field: str) -> SplitResult:
    """Return the parts of a URL; raises `ConfigError` if it is none or holds a password."""
    try:
        parts = urlsplit(url)
        has_user = "@" in parts.netloc
        _ = parts.port
    except ValueError:
        raise ConfigError(field, "it is no URL") from None
    if has_user:
        raise ConfigError(field, "it holds a name or a password; give the secret with token")
    return parts


def require_http_url(url: str, field: str, *, allow_unencrypted: bool) -> None:
    """Raise `ConfigError` for a URL that nothing can be sent to with POST, or not in the clear."""
    if url.startswith(("env:", "credential:")):
        return
    parts = split_url(url, field)
    if parts.scheme not in _HTTP_SCHEMES or not parts.hostname:
        raise ConfigError(field, "allowed: https://HOST/PATH, http:// on this machine, env:NAME or credential:NAME")
    if parts.scheme == "http" and not allow_unencrypted and not _is_here(parts.hostname):
        raise ConfigError(field, "http:// to another machine shows records and token to the network; use https://")


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
