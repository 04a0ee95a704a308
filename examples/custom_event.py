"""Events of your own: subclass `AuditEvent`, give it a tag, declare its fields.

    python -m examples.custom_event [DIR]

A tag is two or more lower-case words joined by dots; `audit.` is reserved for the library. It is in every record
as `event_type`, for as long as the trail is kept, so a class may be renamed later and a tag may not.
"""

from __future__ import annotations

import sys
from typing import ClassVar

import anyio

from audit_async import ActorInfo, AuditConfig, AuditEvent, AuditLogger, AuthMethod, Hybrid, Local


class InvoicePaid(AuditEvent, tag="billing.invoice_paid"):
    """A customer has paid an invoice."""

    actor: ActorInfo
    invoice_id: str
    amount_cents: int  # whole cents: money is no float
    currency: str


class RefundOverLimit(AuditEvent, tag="billing.refund_over_limit"):
    """Somebody has paid back more than they may.

    Critical: durable at once in hybrid mode, and among the last to be refused when the buffer is full.
    """

    critical: ClassVar[bool] = True

    actor: ActorInfo
    invoice_id: str
    amount_cents: int
    limit_cents: int
    approved_by: str | None = None  # left out of the record while it is None


async def main(directory: str) -> None:
    """Record one event of each class below `directory`."""
    clerk = ActorInfo(user_id="dana", ip="198.51.100.7", auth_method=AuthMethod.BEARER_TOKEN)
    config = AuditConfig(mode=Local(directory), service_id="billing", flush_mode=Hybrid())
    async with AuditLogger(config) as audit:
        paid = audit.emit(InvoicePaid(actor=clerk, invoice_id="2026-0117", amount_cents=129_00, currency="EUR"))
        refund = audit.emit(
            RefundOverLimit(actor=clerk, invoice_id="2026-0098", amount_cents=5_000_00, limit_cents=1_000_00)
        )
        await refund.durable()  # at once, and so is what came before it
        print(f"{paid.audit_id} and {refund.audit_id} are durable in {audit.directory}")


if __name__ == "__main__":
    anyio.run(main, sys.argv[1] if len(sys.argv) > 1 else "./audit")
