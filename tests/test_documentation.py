"""What the README shows is what runs: each of its Python blocks is executed as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from audit_async import AuditEvent, AuditLogger
from tests.trails import check_trail, read_events

README = Path(__file__).parents[1] / "README.md"
BLOCKS: list[str] = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def block_with(text: str) -> str:
    """Return the README's only Python block that contains `text`."""
    (block,) = [block for block in BLOCKS if text in block]
    return block


@pytest.fixture(autouse=True)
def in_a_fresh_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each block where it leaves nothing behind."""
    monkeypatch.chdir(tmp_path)


def run_block(text: str) -> dict[str, object]:
    """Execute the block that contains `text` as a module of its own, and return its names."""
    namespace: dict[str, object] = {"__name__": "readme"}
    exec(compile(block_with(text), str(README), "exec", dont_inherit=True), namespace)  # noqa: S102 - our own documentation
    return namespace


def event_types(directory: Path) -> list[str]:
    """Return the types of all records of a log, in order."""
    return [record["event"]["event_type"] for record in read_events(directory)]


def test_every_block_is_tested() -> None:
    """A new block in the README needs a test of its own here."""
    assert len(BLOCKS) == 5


def test_the_first_example_records_an_event(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first lines of the README leave a durable, valid trail in ./audit."""
    run_block("asyncio.run(main())")
    assert capsys.readouterr().out.startswith("1 ")
    log = tmp_path / "audit" / "orders" / "00"
    assert event_types(log) == ["audit.log_opened", "auth.failure", "audit.log_closed"]
    check_trail(log)


def test_the_fastapi_example_records_from_a_def_handler(tmp_path: Path) -> None:
    """The life-span example serves, records from the thread pool, and closes the log at the end."""
    block = block_with("FastAPI(lifespan=lifespan)")
    lifespan = block[block.index("@asynccontextmanager") :]
    assert len([line for line in lifespan.splitlines() if line.strip()]) <= 15
    app = run_block("FastAPI(lifespan=lifespan)")["app"]
    with TestClient(app) as client:  # type: ignore[arg-type]  # what the block defines
        assert client.delete("/customers/c-1").status_code == 200
    log = tmp_path / "audit" / "orders" / "00"
    assert event_types(log) == ["audit.log_opened", "data.deleted", "audit.log_closed"]
    check_trail(log)


def test_the_example_of_an_event_of_ones_own(tmp_path: Path) -> None:
    """The classes of the README can be emitted, and the critical one is critical."""
    names = run_block("billing.invoice_paid")
    paid, forced, actor_info = names["InvoicePaid"], names["RefundForced"], names["ActorInfo"]
    assert isinstance(paid, type)
    assert isinstance(forced, type)
    assert issubclass(paid, AuditEvent)
    assert issubclass(forced, AuditEvent)
    assert (paid.critical, forced.critical) == (False, True)
    assert callable(actor_info)


def test_the_configurations_are_valid(tmp_path: Path) -> None:
    """Every configuration of the README constructs, and makes a logger."""
    names = run_block('AuditConfig.preset("gdpr"')
    for name in ("gdpr", "soc2", "iso27001", "hipaa", "pci_dss", "throughput", "by_hand"):
        AuditLogger(names[name])  # type: ignore[arg-type]  # what the block defines
    assert not list(tmp_path.iterdir())


@pytest.mark.anyio
async def test_the_retention_example_leaves_a_valid_trail(tmp_path: Path) -> None:
    """Dry run, hold and retention run as the README shows them, and all of it is recorded."""
    keep = run_block("apply_retention(dry_run=True)")["keep"]
    assert callable(keep)
    await keep(str(tmp_path / "audit"))
    log = tmp_path / "audit" / "orders" / "00"
    assert event_types(log) == ["audit.log_opened", "audit.hold_set", "audit.hold_lifted", "audit.log_closed"]
    check_trail(log)
