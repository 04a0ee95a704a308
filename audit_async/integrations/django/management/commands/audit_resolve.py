"""`manage.py audit_resolve`: what became of transactions whose intent is recorded and whose outcome is not."""

from __future__ import annotations

import asyncio
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connections

from audit_async.ambient import get_audit
from audit_async.config import Local
from audit_async.events import TransactionEnded, TransactionIntended
from audit_async.integrations.django.commit_intents import database_name
from audit_async.integrations.django.django_settings import log_config
from audit_async.integrations.django.process_log import make_durable
from audit_async.reader import AuditReader

__all__ = ["Command"]

#: How long the outcomes may take to be durable, in seconds.
_TIMEOUT_S = 30.0


class Command(BaseCommand):
    """Asks PostgreSQL about each unfinished transaction, and records its answer."""

    help = (
        "Find out what became of transactions whose intent is in the trail without an outcome, since a process was "
        'killed (AUDIT_COMMIT = {"relation": "intent"}), and record it. Only PostgreSQL can say it. To be run after '
        "a crash, also next to the running service."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the database."""
        parser.add_argument("--database", default="default", help="the alias of the database to ask (default)")

    def handle(self, *_: object, **options: Any) -> None:
        """Ask, record and report."""
        connection = connections[options["database"]]
        if connection.vendor != "postgresql":
            raise CommandError(f"only PostgreSQL says what became of a transaction, not {connection.vendor}")
        counts = {"committed": 0, "rolled back": 0, "unresolved": 0}
        audit = get_audit()
        for intent in asyncio.run(_unfinished(database_name(connection))):
            outcome = _outcome_of(connection, intent)
            if outcome is None:
                counts["unresolved"] += 1
                continue
            ended = TransactionEnded(
                transaction_id=intent.transaction_id,
                outcome="committed" if outcome else "rolled_back",
                found_by="pg_xact_status",
            )
            audit.emit(ended)
            counts["committed" if outcome else "rolled back"] += 1
        make_durable(audit, _TIMEOUT_S)
        self.stdout.write(", ".join(f"{count} {what}" for what, count in counts.items()))


async def _unfinished(database: str) -> list[TransactionIntended]:
    """Return the intents without an outcome that are about a database."""
    config = log_config()
    if not isinstance(config.mode, Local):
        raise CommandError("the settings switch recording off (mode is disabled), so there is no trail")
    reader = AuditReader(f"{config.mode.base_dir}/{config.service_id}")
    found = [record.event async for record in reader.unfinished()]
    return [event for event in found if isinstance(event, TransactionIntended) and event.database == database]


def _outcome_of(connection: Any, intent: TransactionIntended) -> bool | None:
    """Return whether a transaction was committed; None if PostgreSQL does not know, or it is under way."""
    if intent.xid is None:
        return None
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_xact_status(%s::xid8)", [intent.xid])
            (status,) = cursor.fetchone()
    except DatabaseError:  # an id that this database has not given out yet
        return None
    return {"committed": True, "aborted": False}.get(status)
