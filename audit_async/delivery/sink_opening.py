"""The sink that settings describe."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from audit_async._writer.receipts import Receipt
from audit_async.delivery.deliver_settings import (
    AlertSettings,
    FileSettings,
    HttpSettings,
    OtlpSettings,
    SinkSettings,
    StdoutSettings,
    SyslogSettings,
)
from audit_async.delivery.delivery_sink import DeliverySink
from audit_async.errors import ConfigError
from audit_async.events import AuditEvent

__all__ = ["open_delivery_sink"]


def open_delivery_sink(
    settings: SinkSettings,
    *,
    is_json: bool,
    directory: Path,
    record: Callable[[AuditEvent], Receipt],
    own_log: Path | None,
) -> DeliverySink:
    """Return a sink, which connects when something is sent.

    Args:
        settings: What it is.
        is_json: Whether the format's documents are JSON.
        directory: The sink's directory, for one that keeps something.
        record: Puts an event into the deliverer's own log.
        own_log: The directory of that log.

    Raises:
        ConfigError: What the sink needs is not installed, or its files can't be used.
    """
    try:
        match settings:
            case HttpSettings():
                from audit_async.delivery.http_sink import HttpSink  # noqa: PLC0415 - needs an extra

                return HttpSink(settings, is_json=is_json)
            case OtlpSettings():
                from audit_async.delivery.otlp_sink import OtlpSink  # noqa: PLC0415 - needs an extra

                return OtlpSink(settings)
            case SyslogSettings():
                from audit_async.delivery.syslog_sink import syslog_sink  # noqa: PLC0415 - needs an extra

                return syslog_sink(settings)
            case FileSettings():
                from audit_async.delivery.file_sink import FileSink  # noqa: PLC0415 - with the others

                return FileSink(settings)
            case StdoutSettings():
                from audit_async.delivery.file_sink import StdoutSink  # noqa: PLC0415 - with the others

                return StdoutSink(settings)
            case AlertSettings():
                alert_sink = import_module("audit_async.delivery.alerts.alert_sink").AlertSink
                rules = None if settings.rules is None else Path(settings.rules)
                made: DeliverySink = alert_sink(rules, directory, record, own_log)
                return made
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"sink.{settings.name}.type",
            f"it needs {error.name}; install it with: pip install 'audit-async[cli,deliver]'",
        ) from error
    raise ConfigError(f"sink.{settings.name}.type", "no sink is of this type")
