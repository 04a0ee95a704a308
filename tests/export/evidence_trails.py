"""A trail of two logs that sign and seal, for the tests of selective evidence; and changing a zip of evidence."""

from __future__ import annotations

import asyncio
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio

from audit_async import AuditConfig, AuditLogger, Local, audit_context
from audit_async._export.evidence_zip import CHECKSUMS
from audit_async.config import Privacy
from audit_async.reader import AuditQuery, AuditReader, ExportReport
from audit_async.tlog.notes import VerifierKey
from audit_async.tlog.policy import Policy
from audit_async.tlog.signing_keys import load_signer
from tests.privacy.key_stores import make_store, open_store
from tests.privacy.sealed_logs import success
from tests.trail.signed import SigningLog

ORIGINS = {"00": "host.example/orders/00", "01": "host.example/orders/01"}
ASKED = AuditQuery(event_types=("auth.success",))
Entries = dict[str, bytes]


class EvidenceTrail:
    """Two logs, each with three people who logged in, signed up to the last record of each session."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.base_dir = home / "audit"
        self.key_store = make_store(home)
        self.privacy = Privacy(
            key_store=str(self.key_store), master_key=f"file:{home / 'master.key'}", context=("user_id:user",)
        )
        self.logs = {name: SigningLog(self.base_dir, instance=name, origin=ORIGINS[name]) for name in ORIGINS}
        for name, log in self.logs.items():
            self.log_in(log, *(f"{who}-{name}" for who in ("alice", "bob", "carol")))

    @property
    def vkeys(self) -> list[str]:
        """The verifier keys of both logs."""
        key_file = self.logs["00"].key_file
        return [str(load_signer(key_file, origin=origin).key) for origin in ORIGINS.values()]

    @property
    def policy(self) -> Policy:
        """The policy that trusts both logs."""
        return Policy.of([VerifierKey.parse(vkey) for vkey in self.vkeys])

    @property
    def keys(self) -> tuple[str, ...]:
        """The options that name the key store."""
        return ("--key-store", str(self.key_store), "--master-key", f"file:{self.home / 'master.key'}")

    def log_in(self, log: SigningLog, *names: str) -> None:
        """Record in one session that these people logged in."""

        async def live() -> None:
            async with AuditLogger(log.config(privacy=self.privacy)) as audit:
                for name in names:
                    with audit_context(user_id=f"support-of-{name}"):
                        await audit.emit_durable(success(name))

        asyncio.run(live())

    def export(self, target: Path, query: AuditQuery = ASKED, **how: Any) -> ExportReport:
        """Write selective evidence; with `disclose` that is recorded in a log of its own, elsewhere."""

        async def write() -> ExportReport:
            store = open_store(self.key_store)
            try:
                reader = AuditReader(self.base_dir, key_store=store)
                if not how.get("disclose"):
                    return await reader.export(target, "bundle", query, evidence="selective", **how)
                config = AuditConfig(mode=Local(self.home / "readers"), service_id="audit-cli", handle_signals=False)
                async with AuditLogger(config) as audit:
                    return await reader.export(
                        target, "bundle", query, evidence="selective", audit=audit, accessed_by="roe", **how
                    )
            finally:
                store.close()

        return anyio.run(write)


def entries_of(path: Path) -> Entries:
    """Return what is in a zip."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_entries(path: Path, entries: Entries, *, fitting: bool = True) -> Path:
    """Write a zip, by default with a list of checksums that fits, as whoever changes evidence would; return it."""
    if fitting and CHECKSUMS in entries:
        listed = sorted(name for name in entries if name != CHECKSUMS)
        lines = [f"{sha256(entries[name]).hexdigest()}  {name}\n" for name in listed]
        entries = entries | {CHECKSUMS: "".join(lines).encode()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def replaced(name: str, change: Callable[[bytes], bytes]) -> Callable[[Entries], object]:
    """Return what changes one entry."""
    return lambda entries: entries.update({name: change(entries[name])})
