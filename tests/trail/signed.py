"""Logs that sign, and what an attacker does to them: records changed and the whole chain made anew behind them."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Final

import msgspec

from audit_async import AuditConfig, AuditLogger, Local, RotationPolicy, Transparency
from audit_async._trail.log_files import find_logs
from audit_async._verify.signed_trail import verify_signed_trail
from audit_async._verify.verify_report import VerifyReport
from audit_async.tlog.checkpoint import Checkpoint, SignedCheckpoint
from audit_async.tlog.notes import VerifierKey
from audit_async.tlog.policy import Policy
from audit_async.tlog.signed_tree import SignedTree
from audit_async.tlog.signing_keys import load_signer, new_key, write_key
from tests.cli.made_trails import rehashed
from tests.logs import Counted
from tests.tlog.trees import sign

ORIGIN: Final = "host.example/orders/00"
#: A few records fill one.
SMALL_SEGMENTS: Final = RotationPolicy(max_bytes=1500)


class SigningLog:
    """A log of the service `orders` below a directory, and its key."""

    def __init__(self, base_dir: Path, **settings: object) -> None:
        self.base_dir = base_dir
        self.directory = base_dir / "orders" / str(settings.get("instance", "00"))
        self.key_file = base_dir.parent / f"{base_dir.name}.pem"
        self.settings = settings
        if not self.key_file.exists():
            write_key(self.key_file, new_key())

    def config(self, **settings: object) -> AuditConfig:
        """Return the configuration of its service; settings of the log or of its signing, by name."""
        given = self.settings | settings
        names = set(Transparency.__struct_fields__)
        signing = {"key": self.key_file, "origin": ORIGIN, "interval": 3600.0}
        signing |= {name: value for name, value in given.items() if name in names}
        rest = {"instance": "00"} | {name: value for name, value in given.items() if name not in names}
        return AuditConfig(
            mode=Local(self.base_dir),
            service_id="orders",
            handle_signals=False,
            transparency=Transparency(**signing),  # type: ignore[arg-type]  # each test names settings that exist
            **rest,  # type: ignore[arg-type]
        )

    def session(self, *, checkpoints: int = 2, per_checkpoint: int = 3, **settings: object) -> SigningLog:
        """Open the log, record and sign, and close it in order, which signs everything."""

        async def live() -> None:
            async with AuditLogger(self.config(**settings)) as audit:
                for n in range(checkpoints):
                    for m in range(per_checkpoint):
                        await audit.emit_durable(Counted(producer=f"c{n}", n=m))
                    await audit.checkpoint()

        run(live)
        return self

    def unsigned(self, count: int = 3) -> SigningLog:
        """Record something behind the last checkpoint, as a service does that was killed before the next one."""

        async def live() -> None:
            async with AuditLogger(msgspec.structs.replace(self.config(), transparency=None)) as audit:
                for n in range(count):
                    await audit.emit_durable(Counted(producer="unsigned", n=n))

        run(live)
        return self

    @property
    def vkey(self) -> str:
        """The log's verifier key."""
        return str(load_signer(self.key_file, origin=ORIGIN).key)

    @property
    def policy(self) -> Policy:
        """The policy that trusts the log's key."""
        return Policy.of([VerifierKey.parse(self.vkey)])

    @property
    def checkpoint(self) -> bytes:
        """The note that is published."""
        return (self.directory / "tlog" / "checkpoint").read_bytes()

    @property
    def size(self) -> int:
        """Records that are signed."""
        return SignedCheckpoint.parse(self.checkpoint).checkpoint.size

    @property
    def lines(self) -> list[bytes]:
        """All records, by the file that holds them all."""
        return self.segment.read_bytes().splitlines(keepends=True)

    @property
    def segment(self) -> Path:
        """The only segment."""
        (path,) = self.directory.glob("*.audit")
        return path

    def rewrite(self, change: Callable[[list[bytes]], list[bytes]]) -> SigningLog:
        """Replace the records, and make all hashes anew: the chain holds again."""
        self.segment.write_bytes(rehashed(b"".join(change(self.lines))))
        return self

    def publish_anew(self, key_file: Path | None = None) -> SigningLog:
        """Make and sign the tree of the records that are there now, as whoever has the key can."""
        shutil.rmtree(self.directory / "tlog")
        signer = load_signer(key_file or self.key_file, origin=ORIGIN)
        hashes = [bytes.fromhex(json.loads(line)["hash"]) for line in self.lines]
        publisher = SignedTree.open(
            self.directory / "tlog",
            origin=ORIGIN,
            keys=[signer.key],
            records=len(hashes),
            record_hash=hashes.__getitem__,
        )
        publisher.append(hashes)
        publisher.publish(sign(publisher.prepare(), signer))
        publisher.close()
        return self

    def sign(self, size: int, root: bytes) -> bytes:
        """Return any checkpoint, signed by the log's key."""
        signer = load_signer(self.key_file, origin=ORIGIN)
        return sign(Checkpoint(ORIGIN, size, root), signer).encode()

    def report(self, **settings: object) -> VerifyReport:
        """Verify it with its key."""
        return verify_signed(self.base_dir, self.policy, **settings)


def verify_signed(base_dir: Path, policy: Policy, **settings: object) -> VerifyReport:
    """Verify all logs below a directory with a policy."""

    async def verify() -> VerifyReport:
        return await verify_signed_trail(find_logs(base_dir), policy, processes=1, **settings)  # type: ignore[arg-type]  # as named

    return asyncio.run(verify())


def run(live: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run a session on a loop of its own."""
    asyncio.run(live())


def changed(seq: int) -> Callable[[list[bytes]], list[bytes]]:
    """Return what changes the event of one record."""

    def change(lines: list[bytes]) -> list[bytes]:
        assert b'"n":' in lines[seq]
        return [*lines[:seq], lines[seq].replace(b'"n":', b'"n":9'), *lines[seq + 1 :]]

    return change


def renumbered(lines: list[bytes]) -> list[bytes]:
    """Return records as they are, their sequence numbers without a gap."""
    return [b'{"seq":%d' % seq + line[line.index(b",") :] for seq, line in enumerate(lines)]


def without_checkpoints(lines: list[bytes]) -> list[bytes]:
    """Return the records without those that tell of checkpoints."""
    return renumbered([line for line in lines if b'"audit.checkpoint"' not in line])
