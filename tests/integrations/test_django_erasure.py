"""`manage.py audit erase` and `subject-data`: about a person of a project, next to its workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from audit_async.config import AuditConfig, Privacy
from audit_async.sync import SyncAuditLogger
from tests.logs import ConfigFor, log_directory
from tests.privacy.key_stores import make_store
from tests.privacy.sealed_logs import opened, success
from tests.trails import check_trail

WHY = ["--reason", "request 4711", "--by", "R. Roe"]


@pytest.fixture
def config(config_for: ConfigFor, tmp_path: Path) -> AuditConfig:
    """The log of one of the project's workers, which seals."""
    privacy = Privacy(key_store=str(make_store(tmp_path)), master_key=f"file:{tmp_path / 'master.key'}")
    return config_for(service_id="shop", privacy=privacy)


def manage(place: Path, *arguments: str, privacy: dict[str, str] | None) -> subprocess.CompletedProcess[str]:
    """Run a command for the project below `place`."""
    environment = {
        "SITE_DIRECTORY": str(place),
        "DJANGO_SETTINGS_MODULE": "tests.integrations.django_site.site_settings",
    }
    if privacy is not None:
        environment["SITE_PRIVACY"] = json.dumps(privacy)
    command = [sys.executable, "-m", "django", "audit", *arguments]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_a_person_is_erased_while_a_worker_records(config: AuditConfig, tmp_path: Path) -> None:
    """The key store is that of the settings; the worker drops the key, and what it records afterwards is legible."""
    settings = {"key_store": str(tmp_path / "keys"), "master_key": f"file:{tmp_path / 'master.key'}"}
    with SyncAuditLogger(config) as worker:
        worker.emit_durable(success(), 60)
        page = tmp_path / "alice.ndjson"
        shown = manage(tmp_path, "subject-data", str(page), "--subject", "alice", "--as", "R. Roe", privacy=settings)
        assert shown.returncode == 0, shown.stderr
        assert "Alice Liddell" in page.read_text()
        erased = manage(tmp_path, "erase", "--subject", "alice", *WHY, privacy=settings)
        assert erased.returncode == 0, erased.stderr
        assert "destroyed, recorded in audit-cli" in erased.stdout
        worker.emit_durable(success(), 60)
    check_trail(log_directory(config))
    before, after = opened(config, tmp_path)
    assert {member.shown[:8] for member in before.members} == {"[erased "}
    assert all(member.opened is not None for member in after.members)


def test_a_project_that_seals_nothing_erases_nobody(config: AuditConfig, tmp_path: Path) -> None:
    """The command says what is missing."""
    with SyncAuditLogger(config) as worker:
        worker.emit_durable(success(), 60)
    refused = manage(tmp_path, "erase", "--subject", "alice", *WHY, privacy=None)
    assert refused.returncode == 2
    assert "--key-store is missing" in refused.stderr
