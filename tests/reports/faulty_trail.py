"""One trail with faults that are known, and with something of all that a report speaks of."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from audit_async import ActorInfo, AuditConfig, AuditLogger, AuthMethod, BufferFull, Local, Position, Transparency
from audit_async.config import Privacy
from audit_async.events import (
    AuthFailure,
    AuthSuccess,
    ConfigChanged,
    ResourceInfo,
    ResourceRead,
    RoleGranted,
    TransactionEnded,
    TransactionIntended,
)
from audit_async.tlog.policy import Policy
from audit_async.tlog.signing_keys import load_signer, new_key, write_key
from tests.privacy.key_stores import make_store

ORIGIN: Final = "host.example/orders/00"
ALICE: Final = ActorInfo(user_id="alice", ip="203.0.113.9")
#: Sequence number of a record of `orders/00` for which a head was kept that this trail does not have.
FOREIGN_HEAD: Final = Position(3, "f" * 64)
#: Events that the log had to refuse.
REFUSED: Final = 5


class FaultyTrail(NamedTuple):
    """The trail, and what it is verified and opened with."""

    base_dir: Path
    signing: Transparency
    privacy: Privacy
    policy: Policy
    vkey: str


async def leave(tmp_path: Path) -> FaultyTrail:
    """Leave the trail of two services."""
    base_dir, key = tmp_path / "audit", tmp_path / "orders.pem"
    write_key(key, new_key())
    make_store(tmp_path)
    privacy = Privacy(key_store=str(tmp_path / "keys"), master_key=f"file:{tmp_path / 'master.key'}")
    signing = Transparency(key=key, origin=ORIGIN, interval=3600.0)
    signer = load_signer(key, origin=ORIGIN)
    orders = AuditConfig(
        mode=Local(base_dir), service_id="orders", instance="00", handle_signals=False, privacy=privacy,
        transparency=signing,
    )  # fmt: skip
    async with AuditLogger(orders) as audit:
        await _record(audit)
        await audit.checkpoint()
    unsigned = AuditConfig(
        mode=Local(base_dir), service_id="orders", instance="00", handle_signals=False, buffer_events=100
    )
    async with AuditLogger(unsigned) as audit:
        await audit.flush()
        with suppress(BufferFull):
            while True:
                audit.emit(ResourceRead(actor=ALICE, resource=ResourceInfo(resource_type="card", resource_id="4711")))
        for _ in range(REFUSED - 1):
            with suppress(BufferFull):
                audit.emit(ResourceRead(actor=ALICE, resource=ResourceInfo(resource_type="card", resource_id="4711")))
        await audit.flush()
    billing = AuditConfig(mode=Local(base_dir), service_id="billing", instance="00", handle_signals=False)
    async with AuditLogger(billing) as audit:
        for n in range(5):
            await audit.emit_durable(
                AuthFailure(attempted_user="mallory", reason="bad_password", ip="203.0.113.9", path=f"/{n}")
            )
    _remove_a_record(base_dir / "billing" / "00", seq=3)
    return FaultyTrail(base_dir, signing, privacy, Policy.of([signer.key]), str(signer.key))


async def _record(audit: AuditLogger) -> None:
    """Record what a day of a service has, with an intent that nothing became of, a hold, and an erasure."""
    for user in ("alice", "bob"):
        audit.emit(AuthSuccess(actor=ActorInfo(user_id=user), method=AuthMethod.MFA, path="/login"))
    audit.emit(RoleGranted(actor=ActorInfo(user_id="bob"), subject="carol", role="admin"))
    audit.emit(
        ConfigChanged(
            actor=ActorInfo(user_id="bob"),
            resource=ResourceInfo(resource_type="setting", resource_id="limit"),
            changes={"limit": {"before": 1, "after": 2}},  # type: ignore[dict-item]  # converted
        )
    )
    for number in (1, 2):
        audit.emit(TransactionIntended(actor=ActorInfo(user_id="bob"), transaction_id=f"{number:032x}", changes=1))
    audit.emit(TransactionEnded(transaction_id=f"{1:032x}", outcome="committed"))
    await audit.flush()
    await audit.erase_subject("alice", reason="asked for it", requested_by="dpo")
    await audit.set_hold(reason="litigation 7", set_by="counsel")


def _remove_a_record(directory: Path, *, seq: int) -> None:
    """Remove a record in the middle, as somebody does who wants it gone."""
    (segment,) = directory.glob("*.audit")
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:seq] + lines[seq + 1 :]))
