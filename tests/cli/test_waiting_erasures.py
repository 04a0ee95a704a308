"""`audit-async erase` and `keystore rules`: the rules of the key store bind the command line as they bind a service."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from audit_async import AuditConfig
from audit_async.config import Privacy
from tests.cli.commands import Audit
from tests.cli.test_erase import ASKED, Service, a_service_that_does_not_confirm, log_ins
from tests.cli.test_sealed_members import files_with


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """A service with a key store, in which Alice has logged in."""
    service = Service(tmp_path)
    service.run("alice", "bob")
    return service


class Steps:
    """The steps of an erasure on the command line."""

    def __init__(self, audit: Audit, service: Service) -> None:
        self._audit = audit
        self._service = service

    def __call__(self, *options: str, status: int = 0) -> Any:
        """Do a step; return what it says, or its error."""
        ended = self._audit("erase", self._service.base_dir, *options, *self._service.keys, "--json")
        assert ended.status == status, ended.out + ended.err
        return ended.document if not status else ended.err

    def rules(self, *options: str) -> Any:
        """Show the rules, or change them on record."""
        by = ("--trail", str(self._service.base_dir), "--by", "B. Board", "--reason", "policy 7") if options else ()
        master = ("--master-key", self._service.master_key)
        ended = self._audit("keystore", "rules", self._service.store, *master, *by, *options, "--json")
        assert ended.status == 0, ended.err
        return ended.document


@pytest.fixture
def erase(audit: Audit, service: Service) -> Steps:
    """The command, with the service's key store."""
    return Steps(audit, service)


def test_the_rules_of_a_service_bind_the_command(audit: Audit, service: Service, erase: Steps, tmp_path: Path) -> None:
    """It has no configuration, and can't erase in one call what the service would not."""
    privacy = Privacy(key_store=service.store, master_key=service.master_key, erasure_delay="P7D", two_person=True)
    file = tmp_path / "audit.toml"
    file.write_text(
        f'service_id = "orders"\n[mode]\ntype = "local"\nbase_dir = "{service.base_dir}"\n'
        f'[privacy]\nkey_store = "{service.store}"\nmaster_key = "{service.master_key}"\n'
        'erasure_delay = "P7D"\ntwo_person = true\n'
    )
    settings = AuditConfig.load(file).privacy
    assert settings is not None
    assert settings.erasure_rules() == privacy.erasure_rules()
    service.config = lambda **_: AuditConfig.load(file)  # type: ignore[method-assign]
    service.run("carol")
    for options in ((), ("--force",), ("--approved-by", "L. Law")):
        assert "--request" in erase(*ASKED, *options, status=3)
    requested = erase(*ASKED, "--request")
    assert requested["step"] == "requested"
    assert requested["request"]["needs_approval"] is True
    assert erase("--due")["erasures"] == 0
    assert "alice" in log_ins(audit, service)


def test_two_persons_request_and_approve(audit: Audit, service: Service, erase: Steps) -> None:
    """Each with a call and a record of its own; what waits is shown in between; then it is executed."""
    assert erase.rules("--two-person") == {"delay_s": 0, "not_before_days": 0, "two_person": True}
    request_id = erase(*ASKED, "--request")["request"]["request_id"]
    (waiting,) = erase("--waiting")["waiting"]
    assert (waiting["request_id"], waiting["requested_by"], waiting["is_approved"]) == (request_id, "R. Roe", False)
    approve = ("--approve", request_id, "--subject", "alice", "--by")
    for name in ("R. Roe", "r. roe", " R.ROE"):
        assert "second person" in erase(*approve, name, status=3)
    assert "of this person" in erase("--approve", request_id, "--subject", "bob", "--by", "L. Law", status=3)
    assert erase(*approve, "L. Law")["request"]["is_approved"] is True
    assert erase("--due")["keys"] == 1
    assert erase("--waiting") == {"waiting": []}
    assert [name[:7] for name in log_ins(audit, service)] == ["[erased", "bob"]
    for word in (b"alice", b"R. Roe", b"L. Law", b"B. Board"):
        assert files_with(service.base_dir, word) == []
        assert files_with(service.store, word) == []
    assert audit("verify", service.base_dir).status == 0


def test_a_process_that_did_not_confirm_what_was_due_is_named(
    service: Service, erase: Steps, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the status of an erasure that is not complete, as for one that does not wait."""
    erase.rules("--two-person")
    with a_service_that_does_not_confirm(service, monkeypatch):
        request_id = erase(*ASKED, "--request")["request"]["request_id"]
        erase("--approve", request_id, "--subject", "alice", "--by", "L. Law")
        done = audit("erase", service.base_dir, "--due", *service.keys, "--json")
        assert (done.status, done.document["erasures"], done.document["waiting_for"]) == (3, 1, ["orders/00"])


def test_each_step_says_to_people_what_came_of_it(audit: Audit, service: Service, erase: Steps) -> None:
    """What waits and for what, who approved it, how many keys are destroyed, and where that is recorded."""

    def said(*options: str) -> str:
        ended = audit("erase", service.base_dir, *options, *service.keys)
        assert ended.status == 0, ended.err
        return " ".join(ended.out.split())

    erase.rules("--two-person")
    request_id = erase(*ASKED, "--request")["request"]["request_id"]
    assert re.search(r"request .* UTC, and for an approval", said("--waiting"))
    approved = said("--approve", request_id, "--subject", "alice", "--by", "L. Law")
    assert re.fullmatch(
        rf"approved recorded in orders/00 Nothing is erased yet. Request {request_id} waits until .* UTC, approved by "
        r"L\. Law\.",
        approved,
    )
    assert said("--due") == "executed 1 erasure, 1 key destroyed, recorded in orders/00"
    assert said("--due") == "executed 0 erasures, 0 keys destroyed, recorded in orders/00"
    assert said("--waiting") == "No erasure waits."
    requested = said("--subject", "bob", "--reason", "his wish", "--by", "R. Roe", "--request")
    assert re.match(r"requested recorded in orders/00 Nothing is erased yet\. Request \S+ waits until ", requested)
    request_id = erase("--waiting")["waiting"][0]["request_id"]
    assert said("--cancel", request_id, "--by", "L. Law", "--reason", "evidence") == "cancelled recorded in orders/00"


def test_a_request_is_cancelled(audit: Audit, service: Service, erase: Steps) -> None:
    """And not executed; who did it, and why, is on record."""
    erase.rules("--delay", "P1W")
    request_id = erase(*ASKED, "--request")["request"]["request_id"]
    shown = audit("erase", service.base_dir, "--waiting", *service.keys)
    assert request_id in shown.out
    assert "waits until" in " ".join(shown.out.split())
    erase("--cancel", request_id, "--by", "L. Law", "--reason", "evidence")
    assert erase("--waiting") == {"waiting": []}
    assert "no erasure" in erase("--cancel", request_id, "--by", "L. Law", "--reason", "evidence", status=3)
    kind = "audit.erasure_cancelled"
    (row,) = audit("query", service.base_dir, "--type", kind, "--json", *service.keys).rows
    assert (row["event"]["cancelled_by"], row["event"]["reason"]) == ("L. Law", "evidence")


def test_a_change_of_the_rules_is_on_record(audit: Audit, service: Service, erase: Steps) -> None:
    """Without a name, a reason and a trail nothing is changed; `status` and `doctor` show what is in force."""
    base = ("keystore", "rules", service.store, "--master-key", service.master_key)
    assert erase.rules() == {"delay_s": 0, "not_before_days": 0, "two_person": False}
    for options in (("--delay", "7"), ("--delay", "7", "--by", "B", "--reason", " ", "--trail", str(service.base_dir))):
        assert audit(*base, *options).status == 2
    assert audit(*base, "--delay", "P1M", "--by", "B", "--reason", "r", "--trail", service.base_dir).status == 2
    erase.rules("--delay", "PT36H", "--not-before-days", "30")
    assert erase.rules("--one-person") == {"delay_s": 129_600, "not_before_days": 30, "two_person": False}
    assert "wait 36 hours, keep keys younger than 30 days" in audit(*base).out
    assert "wait 36 hours" in " ".join(audit("keystore", "status", service.store).out.split())
    rows = audit("query", service.base_dir, "--type", "audit.erasure_rules_changed", "--json", *service.keys).rows
    assert [row["event"].get("done") for row in rows] == [None, True, None, True]
    assert {row["event"]["changed_by"] for row in rows} == {"B. Board"}


def test_the_doctor_says_what_waits_and_what_was_erased_lately(audit: Audit, service: Service, erase: Steps) -> None:
    """So that an erasure of traces is seen while an incident is looked into."""

    def found() -> dict[str, tuple[str, str]]:
        checks = audit("doctor", service.base_dir, "--json", *service.keys).document["checks"]
        return {check["name"]: (check["status"], check["text"]) for check in checks if check["subject"] == "key store"}

    assert found()["recent erasures"][0] == "ok"
    assert "requests" not in found()
    erase(*ASKED)
    erase("--subject", "bob", "--reason", "his wish", "--by", "R. Roe", "--request")
    status, text = found()["recent erasures"]
    assert status == "warn"
    assert "1 erasure in the last 30 days" in text
    status, text = found()["requests"]
    assert status == "warn"
    assert "1 erasure waiting" in text


def test_the_age_of_the_newest_copy_is_known(audit: Audit, service: Service, tmp_path: Path) -> None:
    """To the store that was copied, and to the copy itself."""
    copy = tmp_path / "copy"
    assert audit("keystore", "status", service.store, "--json").document["status"]["backed_up_at"] is None
    assert audit("keystore", "backup", service.store, copy).status == 0
    for store in (service.store, copy):
        assert re.match(r"20\d\d-", audit("keystore", "status", store, "--json").document["status"]["backed_up_at"])
    checks = audit("doctor", service.base_dir, "--json", *service.keys).document["checks"]
    (backup,) = [check for check in checks if (check["subject"], check["name"]) == ("key store", "backup")]
    assert (backup["status"], backup["text"]) == ("ok", "the newest copy by keystore backup is 0 days old")


def test_steps_that_make_no_sense_are_refused(audit: Audit, service: Service) -> None:
    """Two at once, a step without its parts, and force for what waits."""
    for options in (
        ("--waiting", "--due"),
        ("--request", "--dry-run", "--subject", "alice"),
        ("--request", *ASKED, "--force"),
        ("--approve", "x", "--by", "L. Law"),
        ("--cancel", "x", "--by", "L. Law"),
        ("--cancel", "x", "--reason", "why"),
        ("--reason", "why", "--by", "R. Roe"),
    ):
        assert audit("erase", service.base_dir, *options, *service.keys).status == 2, options
