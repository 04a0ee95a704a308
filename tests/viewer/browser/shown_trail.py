"""A small trail that has something for every page: two services, a signed log, changes, failures, a legal hold."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

from audit_async import AuditConfig, AuditLogger, Local, Transparency
from audit_async.context import audit_context
from audit_async.events import ActorInfo, AuthMethod, AuthSuccess, Change, ConfigChanged, ResourceInfo, UserUpdated
from audit_async.tlog.notes import VerifierKey
from audit_async.tlog.policy import Policy
from audit_async.tlog.signing_keys import load_signer, new_key, write_key
from tests.store.chained import Chain, open_store

ORIGIN = "audit.example/accounts/00"
_PEOPLE = ("alice", "bob", "carol", "mallory", "svc-billing", "svc-export")
_PATHS = ("/orders/{}", "/orders", "/customers/{}", "/reports/monthly", "/login")


def orders_events(number: int) -> list[bytes]:
    """Return encoded events such as a web service records."""
    chosen = random.Random(7)  # noqa: S311 - the same trail each time
    events: list[dict[str, object]] = []
    for n in range(number):
        who, ip = chosen.choice(_PEOPLE), f"203.0.113.{chosen.randint(2, 30)}"
        context = {"request_id": f"{chosen.getrandbits(48):012x}"}
        if chosen.random() < 0.08:
            event: dict[str, object] = {"event_type": "auth.failure", "attempted_user": "mallory",
                                        "reason": "bad_password", "ip": ip, "path": "/login"}  # fmt: skip
        elif chosen.random() < 0.15:
            order = f"A-{1000 + chosen.randint(0, 60)}"
            event = {"event_type": "data.modified", "actor": {"user_id": who, "ip": ip},
                     "resource": {"resource_type": "order", "resource_id": order},
                     "changes": {"status": {"before": "new", "after": "paid"},
                                 "total": {"before": 118.5, "after": 99.0}}}  # fmt: skip
        else:
            status = chosen.choice((200, 200, 200, 200, 201, 204, 304, 403, 404, 500))
            event = {"event_type": "http.request", "actor": {"user_id": who, "ip": ip},
                     "method": chosen.choice(("GET", "GET", "POST")), "status": status,
                     "path": chosen.choice(_PATHS).format(chosen.randint(1, 400)),
                     "duration_ms": chosen.randint(2, 900)}  # fmt: skip
        events.append({"event": event, "context": context, "n": n})
    return [json.dumps(one["event"], separators=(",", ":")).encode() for one in events]


def make_shown_trail(base_dir: Path, *, number: int = 600) -> Policy:
    """Write the trail, and return whose signatures count."""
    chain, chosen = Chain(), random.Random(11)  # noqa: S311 - the same trail each time
    store = open_store(base_dir, max_bytes=40_000)
    events = orders_events(number)
    while events:
        size, step_s = chosen.randint(5, 40), chosen.choice((2, 15, 60, 240))
        store.commit(chain.batch_of(events[:size], step_ns=step_s * 10**9), sync=True)
        events = events[size:]
    store.close()
    key_file = base_dir.parent / "accounts.pem"
    write_key(key_file, new_key())
    asyncio.run(_accounts(base_dir, key_file))
    return Policy.of([_vkey(key_file)])


def _vkey(key_file: Path) -> VerifierKey:
    return load_signer(key_file, origin=ORIGIN).key


async def _accounts(base_dir: Path, key_file: Path) -> None:
    config = AuditConfig(
        mode=Local(base_dir),
        service_id="accounts",
        instance="00",
        handle_signals=False,
        transparency=Transparency(key=key_file, origin=ORIGIN, interval=3600.0),
    )
    alice = ActorInfo(user_id="alice", ip="203.0.113.9", role="admin", display_name="Alice Example")
    async with AuditLogger(config) as audit:
        with audit_context(request_id="8f2c01aa93d4", tenant="acme"):
            await audit.emit_durable(AuthSuccess(actor=alice, method=AuthMethod.PASSWORD, path="/login"))
            changes = {
                "email": Change(before="bob@old.example", after="bob@new.example"),
                "roles": Change(before=["clerk"], after=["clerk", "approver"]),
                "phone": Change(after="+49 30 5550100"),
            }
            await audit.emit_durable(UserUpdated(actor=alice, subject="bob", changes=changes))
            setting = ResourceInfo(resource_type="setting", resource_id="session_minutes")
            changed = {"session_minutes": Change(before=30, after=480)}
            await audit.emit_durable(ConfigChanged(actor=alice, resource=setting, changes=changed))
        await audit.set_hold(reason="Case 4711: orders of March", set_by="legal")
        await audit.checkpoint()
        await audit.emit_durable(AuthSuccess(actor=alice, method=AuthMethod.PASSWORD, path="/login"))
