"""`audit-async events`: the catalogue as people and CI read it, also of a service's own events."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.cli.commands import COMMAND, Audit

OWN = """
from typing import Annotated, ClassVar
from audit_async import ActorInfo, AuditEvent
from audit_async.events import Personal

class InvoicePaid(AuditEvent, tag="billing.invoice_paid"):
    \"\"\"An invoice was paid. It is by a customer.\"\"\"
    critical: ClassVar[bool] = True
    event_version: ClassVar[int] = {version}
    actor: ActorInfo
    customer_id: Annotated[str, Personal("customer_id", kind="customer")]
    cents: int
{more}
"""


def write_own(place: Path, *, version: int = 1, more: str = "") -> None:
    """Write the module of a service's events, as a package `shop` with a module `events`."""
    (place / "shop").mkdir(exist_ok=True)
    (place / "shop" / "__init__.py").touch()
    (place / "shop" / "events.py").write_text(OWN.format(version=version, more=more))


def events(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command where the service's code is."""
    command = [*COMMAND, "events", *arguments]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=60, check=False)


def test_the_built_in_events_are_listed(audit: Audit) -> None:
    """One line a type, critical ones marked; with --json all that the catalogue has."""
    ended = audit("events", "list")
    assert (ended.status, ended.err) == (0, "")
    assert "auth.failure *" in ended.out
    assert "user.mfa_failed *" in ended.out
    rows = audit("events", "list", "--json").rows
    assert {"auth.failure", "resource.updated", "pool.created", "audit.log_opened"} <= {
        row["event_type"] for row in rows
    }
    assert not any(row["module"].startswith("audit_async.cli") for row in rows)


@pytest.mark.parametrize("name", ["user.updated", "UserUpdated"])
def test_one_event_is_shown_by_its_type_or_class(audit: Audit, name: str) -> None:
    """Its members with their types, and what is personal, at any depth."""
    ended = audit("events", "show", name)
    assert ended.status == 0
    assert "object of Change" in ended.out
    assert "changes{}.before" in ended.out
    assert audit("events", "show", name, "--json").document["event_type"] == "user.updated"
    assert audit("events", "schema", name).document["title"] == "user.updated"


def test_an_unknown_type_is_refused(audit: Audit) -> None:
    """The message says where to look."""
    ended = audit("events", "show", "user.updatet")
    assert ended.status == 3
    assert "events list" in ended.err


def test_a_service_checks_its_own_events_in_ci(tmp_path: Path) -> None:
    """A catalogue from before, a change that fits, one without a new version, and one that does not fit."""
    write_own(tmp_path)
    listed = events(tmp_path, "list", "--module", "shop.events")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "billing.invoice_paid *" in listed.stdout
    assert "auth.failure" not in listed.stdout
    (tmp_path / "events.json").write_text(events(tmp_path, "schema", "--module", "shop.events").stdout)
    same = events(tmp_path, "check", "events.json", "--module", "shop.events")
    assert (same.returncode, same.stdout) == (0, "no change\n")

    write_own(tmp_path, more="    note: str | None = None")
    forgotten = events(tmp_path, "check", "events.json", "--module", "shop.events")
    assert forgotten.returncode == 1
    assert "raise it" in forgotten.stdout
    write_own(tmp_path, version=2, more="    note: str | None = None")
    fits = events(tmp_path, "check", "events.json", "--module", "shop.events")
    assert fits.returncode == 0
    assert "note is new and optional" in fits.stdout

    write_own(tmp_path, version=2, more="    note: str")
    breaks = events(tmp_path, "check", "events.json", "--module", "shop.events", "--json")
    assert breaks.returncode == 1
    [change] = [change for change in json.loads(breaks.stdout)["changes"] if not change["is_compatible"]]
    assert (change["member"], "required" in change["what"]) == ("note", True)


def test_what_can_t_be_imported_or_read_is_said(tmp_path: Path) -> None:
    """The module, the reason, and nothing that the service's own code says."""
    missing = events(tmp_path, "list", "--module", "shop.nothing")
    assert missing.returncode == 3
    assert "shop" in missing.stderr
    (tmp_path / "bad.py").write_text("raise RuntimeError('secret')")
    bad = events(tmp_path, "list", "--module", "bad")
    assert bad.returncode == 3
    assert "RuntimeError" in bad.stderr
    assert "secret" not in bad.stderr
    (tmp_path / "events.json").write_text("{}")
    assert "no catalogue" in events(tmp_path, "check", "events.json").stderr
    assert events(tmp_path, "check", "none.json").returncode == 3
