"""Each rule of the starter set, on what the library and its integrations record: what raises it, and what just doesn't.

Nothing is made by hand: events are emitted, requests are made to Django and through the middleware, objects are deleted
through an ORM, a hold is lifted, a person is erased, a segment is edited.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import msgspec
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from audit_async import ActorInfo, AuditConfig, AuditEvent, AuditLogger, AuthMethod, BufferFull, Local, set_audit
from audit_async._query.recorded_members import read_said
from audit_async.ambient import acting_as
from audit_async.config import Privacy, RotationPolicy, Verification
from audit_async.delivery.alerts import AlertEngine, ObservedRecord, starter_rules
from audit_async.events import (
    AuditAlertRaised,
    AuditCollectionFinding,
    AuthSuccess,
    Change,
    ConfigChanged,
    DataExported,
    FileDownloaded,
    ImpersonationEnded,
    ImpersonationStarted,
    IntegrityViolation,
    InvalidTokenUsed,
    MfaDisabled,
    MfaEnabled,
    MfaFailed,
    PermissionChanged,
    PolicyViolation,
    ResourceInfo,
    RoleGranted,
    RoleRevoked,
    SealVerificationFailed,
    SealVerified,
    SuspiciousActivity,
)
from audit_async.integrations.asgi import AuditMiddleware
from audit_async.integrations.sqlalchemy import audit_session
from audit_async.logger.forwarding_records import record_own
from audit_async.sync import SyncAuditLogger
from audit_async.testing import AuditTrail
from tests.delivery.delivering import until
from tests.integrations.asgi_client import answering, ask, hello, http_scope
from tests.integrations.django_site.databases import fresh_databases
from tests.integrations.orm_models import Base, Tag
from tests.logs import Counted, segment_lines
from tests.privacy.key_stores import make_store
from tests.trails import logs_below

# After the project is set up, which the import above does.
from django.contrib.auth.models import User  # isort: skip
from django.test import Client  # isort: skip

MALLORY = ActorInfo(user_id="mallory", ip="203.0.113.9")
ORDER = ResourceInfo(resource_type="order", resource_id="17")
Story = Callable[[Path], None]


class Stories(NamedTuple):
    """What makes a rule raise an alert, and what almost does."""

    raises: Story
    near_miss: Story
    also: tuple[str, ...] = ()  #: further rules that both raise
    alerts: int = 1  #: how many it raises


def config_of(base: Path, **more: Any) -> AuditConfig:
    """Return the configuration of the log of a story."""
    given: dict[str, Any] = {"mode": Local(base), "service_id": "orders", "handle_signals": False}
    return AuditConfig(**(given | more))


def in_a_log(act: Callable[[AuditLogger], Awaitable[None]], **more: Any) -> Story:
    """Return a story that happens in a log."""

    async def run(base: Path) -> None:
        async with AuditLogger(config_of(base, **more)) as audit:
            await act(audit)

    return lambda base: anyio.run(run, base)


def emits(*events: AuditEvent) -> Story:
    """Return a story of events that a service emits."""

    async def emit(audit: AuditLogger) -> None:
        for event in events:
            audit.emit(event)

    return in_a_log(emit)


def requests(status: int, *scopes: dict[str, Any]) -> Story:
    """Return a story of requests through the middleware, all answered with a status."""

    async def run(audit: AuditLogger) -> None:
        app = AuditMiddleware(answering(status) if status != 200 else hello, audit, actor=lambda scope: scope["who"])
        for scope in scopes:
            await ask(app, http_scope(**scope))

    return in_a_log(run)


def asked(path: str = "/", *, who: str | None = None, n: int = 0) -> dict[str, Any]:
    """Return a request, from another address for each n."""
    return {"path": path, "who": who, "client": (f"203.0.113.{n}", 50000)}


TEMPLATES: list[Path] = []


def log_ins(*attempts: tuple[str, int], path: str = "/login/") -> Story:
    """Return a story of log-ins at a Django site with wrong passwords: as whom, and from which address."""

    def run(base: Path) -> None:
        with AuditTrail(base) as trail, fresh_databases(base.parent, TEMPLATES[0], None):
            before = set_audit(trail.audit)
            try:
                User.objects.create_user("alice", password="wonderland-7")
                for name, address in attempts:
                    given = {"username": name, "password": "guessed"}
                    Client().post(path, given, REMOTE_ADDR=f"203.0.113.{address}")
                Client().post("/login/", {"username": "alice", "password": "wonderland-7"})
            finally:
                set_audit(before)

    return run


@pytest.fixture(autouse=True, scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A place for the database that others are copied from."""
    TEMPLATES.append(tmp_path_factory.mktemp("templates"))


def deletions(count: int) -> Story:
    """Return a story of objects that are deleted through an ORM, one by one in a transaction."""

    def run(base: Path) -> None:
        engine = create_engine("sqlite://")
        Base.metadata.create_all(engine)
        sessions = sessionmaker(engine)
        with SyncAuditLogger(config_of(base)) as audit, acting_as(MALLORY):
            watching = audit_session(sessions, [Tag], audit=audit)
            with sessions.begin() as session:
                tags = [Tag(name=f"t{n}") for n in range(count)]
                session.add_all(tags)
            with sessions.begin() as session:
                for tag in tags:
                    session.delete(tag)
            watching.stop()
        engine.dispose()

    return run


async def flood(audit: AuditLogger) -> None:
    """Emit more than there is room for."""
    with pytest.raises(BufferFull):
        while True:
            audit.emit(Counted(producer="p", n=1))
    await audit.flush()


async def hold(audit: AuditLogger, *, lift: bool) -> None:
    """Set a hold, and perhaps lift it."""
    await audit.set_hold(reason="case 4711", set_by="carol")
    if lift:
        await audit.lift_hold(reason="case closed", lifted_by="mallory")


def person(*, erase: bool) -> Story:
    """Return a story of a person who is sealed, and perhaps erased."""

    async def run(base: Path) -> None:
        store = make_store(base.parent)
        privacy = Privacy(key_store=str(store), master_key=f"file:{base.parent / 'master.key'}")
        async with AuditLogger(config_of(base, privacy=privacy)) as audit:
            audit.emit(AuthSuccess(actor=ActorInfo(user_id="alice"), method=AuthMethod.MFA, path="/login"))
            await audit.flush()
            if erase:
                await audit.erase_subject("alice", reason="asked", requested_by="dpo")

    return lambda base: anyio.run(run, base)


async def verified(audit: AuditLogger, *, edited: bool) -> None:
    """Have a log verify itself, perhaps after somebody has edited it."""
    for n in range(40):
        audit.emit(Counted(producer="p" * 100, n=n))
    await audit.flush()
    assert audit.directory is not None
    if edited:
        segment = min(audit.directory.glob("*.audit"))
        segment.chmod(0o600)
        segment.write_bytes(segment.read_bytes().replace(b"ppp", b"ppq", 1))
        await until(lambda: audit.health().findings > 0)
    else:
        await until(lambda: (audit.health().verified_seq or 0) >= 40)
    await audit.flush()


verifying = partial(in_a_log, verification=Verification(interval=0.1), rotation=RotationPolicy(max_bytes=8192))


def times(count: int, make: Callable[[int], AuditEvent]) -> list[AuditEvent]:
    """Return so many events."""
    return [make(n) for n in range(count)]


def mfa_failures(*users: str) -> Story:
    """Return a story of wrong second factors."""
    return emits(*(MfaFailed(actor=ActorInfo(user_id=user), subject=user, method="totp") for user in users))


def exports(count: int, by: Callable[[int], str]) -> Story:
    """Return a story of exports and downloads in turn."""
    kinds = (DataExported, FileDownloaded)
    return emits(*times(count, lambda n: kinds[n % 2](actor=ActorInfo(user_id=by(n)), resource=ORDER)))


def invalid_tokens(*addresses: int) -> Story:
    """Return a story of tokens that are none, from these addresses."""
    return emits(*(InvalidTokenUsed(ip=f"203.0.113.{n}", token_prefix="ab", endpoint="/") for n in addresses))


def integrity(kind: type[SealVerificationFailed | SealVerified]) -> AuditEvent:
    """Return what is said of a shard."""
    if kind is SealVerified:
        return SealVerified(shard_id="s", worker_id="w")
    digests: dict[str, Any] = {"expected_digest": "a", "actual_digest": "b"}
    return SealVerificationFailed(shard_id="s", reason="x", worker_id="w", severity="high", **digests)


SUSPICION = SuspiciousActivity(actor=MALLORY, activity_type="t", details="d", risk_score=90)
VIOLATION = PolicyViolation(policy="p", violation="v", details="d", severity="high", worker_id="w", action_taken="none")
#: What an address does in the test of its own log-ins, so that a rule on users stays quiet.
NAMES = ("alice", "bob", "carol")

STORIES = {
    "failed-logins-of-an-address": Stories(
        raises=log_ins(*((NAMES[n % 3], 9) for n in range(5))),
        near_miss=log_ins(*((NAMES[n % 3], 9) for n in range(4)), ("alice", 8)),
    ),
    "password-spraying": Stories(
        raises=log_ins(*((f"user{n}", 9) for n in range(10))),
        near_miss=log_ins(*((f"user{n % 9}", 9) for n in range(10))),
        also=("failed-logins-of-an-address",),
    ),
    "failed-logins-of-a-user": Stories(
        raises=log_ins(*(("alice", n) for n in range(10))),
        near_miss=log_ins(*(("alice", n) for n in range(9)), ("bob", 9)),
    ),
    "mfa-fatigue": Stories(raises=mfa_failures(*["alice"] * 5), near_miss=mfa_failures(*["alice"] * 4, "bob")),
    "mfa-disabled": Stories(
        raises=emits(MfaDisabled(actor=MALLORY, subject="alice", method="totp")),
        near_miss=emits(MfaEnabled(actor=MALLORY, subject="alice", method="totp")),
    ),
    "impersonation": Stories(
        raises=emits(ImpersonationStarted(actor=MALLORY, subject="alice", reason="ticket 17")),
        near_miss=emits(ImpersonationEnded(actor=MALLORY, subject="alice", reason="ticket 17")),
    ),
    "role-granted": Stories(
        raises=emits(
            RoleGranted(actor=MALLORY, subject="mallory", role="root"),
            PermissionChanged(actor=MALLORY, subject="alice", old_permissions=[], new_permissions=["w"]),
        ),
        near_miss=emits(RoleRevoked(actor=MALLORY, subject="mallory", role="root")),
        alerts=2,
    ),
    "many-refusals-of-an-actor": Stories(
        raises=requests(403, *(asked(who="mallory") for _ in range(20))),
        near_miss=requests(403, *(asked(who="mallory") for _ in range(19)), asked(who="alice")),
    ),
    "invalid-tokens-of-an-address": Stories(
        raises=invalid_tokens(*[9] * 10), near_miss=invalid_tokens(*[9] * 9, 8)
    ),
    "path-traversal": Stories(
        raises=requests(200, asked("/files/../../etc/passwd")),
        near_miss=requests(200, asked("/files/..hidden/a..b/...")),
    ),
    "suspicious-activity": Stories(
        raises=emits(SUSPICION, VIOLATION), near_miss=requests(404, asked("/wp-login.php")), alerts=2
    ),
    "many-exports-of-an-actor": Stories(
        raises=exports(10, lambda n: "mallory"),
        near_miss=exports(18, lambda n: ("mallory", "alice")[n % 2]),
    ),
    "mass-deletion": Stories(raises=deletions(50), near_miss=deletions(49)),
    "configuration-changed": Stories(
        raises=emits(ConfigChanged(actor=MALLORY, resource=ORDER, changes={"debug": Change(before=False, after=True)})),
        near_miss=emits(DataExported(actor=MALLORY, resource=ORDER)),
    ),
    "integrity-violated": Stories(
        raises=emits(
            integrity(SealVerificationFailed),
            IntegrityViolation(
                resource_type="model", resource_id="m", expected_hash="a", actual_hash="b", severity="high",
                action_taken="stopped",
            ),
        ),
        near_miss=emits(integrity(SealVerified)),
        alerts=2,
    ),
    "trail-changed": Stories(
        raises=verifying(partial(verified, edited=True)), near_miss=verifying(partial(verified, edited=False))
    ),
    "events-dropped": Stories(
        raises=in_a_log(flood, buffer_events=100), near_miss=emits(*times(50, lambda n: Counted(producer="p", n=n)))
    ),
    "hold-lifted-or-log-replaced": Stories(
        raises=in_a_log(partial(hold, lift=True)), near_miss=in_a_log(partial(hold, lift=False))
    ),
    "person-erased": Stories(raises=person(erase=True), near_miss=person(erase=False)),
}  # fmt: skip


def engine_on(*bases: Path) -> tuple[AlertEngine, list[AuditAlertRaised]]:
    """Put the starter set to all records of trails, as a deliverer does; return what it raises."""
    engine = AlertEngine(starter_rules())
    raised = []
    for log in [log for base in bases for log in logs_below(base)]:
        log_id = msgspec.json.decode((log / "log.json").read_bytes())["log_id"]
        records = []
        for line in segment_lines(log):
            recorded = msgspec.json.decode(line)
            said = read_said(line)
            records.append(ObservedRecord(recorded["seq"], recorded["audit_id"], recorded["timestamp"], said))
        raised += engine.look(log_id, f"{log.parent.name}/{log.name}", records, datetime.now(UTC)).alerts
    return engine, raised


def counted(alerts: Iterable[AuditAlertRaised]) -> Counter[str]:
    """Return how many alerts each rule has raised."""
    return Counter(alert.rule for alert in alerts)


@pytest.mark.parametrize("rule", STORIES)
def test_what_raises_a_rule_and_what_just_does_not(tmp_path: Path, rule: str) -> None:
    """Exactly this rule, and those that are said to go with it."""
    stories = STORIES[rule]
    for name, story in (("raises", stories.raises), ("near", stories.near_miss)):
        (tmp_path / name).mkdir()
        story(tmp_path / name / "audit")
    also = Counter(stories.also)
    assert counted(engine_on(tmp_path / "raises")[1]) == also + Counter({rule: stories.alerts})
    assert counted(engine_on(tmp_path / "near")[1]) == also


def test_every_rule_has_its_stories() -> None:
    """A rule that is added is tested, or this fails; silence has a test of its own."""
    assert {rule.name for rule in starter_rules()} == {*STORIES, "silent-log"}


async def keep_open(base: Path, *, close: bool) -> list[AuditAlertRaised]:
    """Record something, and look an hour later whether the log is missed: closed in order, or still open."""
    async with AuditLogger(config_of(base)) as audit:
        await audit.emit_durable(Counted(producer="p", n=1))
        if not close:
            return silent_in_an_hour(base)
    return silent_in_an_hour(base)


def silent_in_an_hour(base: Path) -> list[AuditAlertRaised]:
    """Return what the silence of an hour from now on raises, and that of a little less does not."""
    engine, raised = engine_on(base)
    assert raised == []
    now = datetime.now(UTC)
    assert list(engine.silent(now + timedelta(minutes=59), now - timedelta(days=1))) == []
    later = now + timedelta(hours=1)
    return [alert for looked in engine.silent(later, now - timedelta(days=1)) for alert in looked.alerts]


def test_a_log_that_was_not_closed_is_missed_after_an_hour(tmp_path: Path) -> None:
    """One that was closed in order is not."""
    (alert,) = anyio.run(partial(keep_open, close=False), tmp_path / "open")
    assert (alert.rule, alert.kind, alert.log) == ("silent-log", "silence", "orders/00")
    assert anyio.run(partial(keep_open, close=True), tmp_path / "closed") == []


def test_strangers_are_not_one_user(tmp_path: Path) -> None:
    """Requests of nobody in particular, each from another address, raise no alert about one user or one actor."""
    for status, name in ((401, "unauthorized"), (403, "forbidden")):
        requests(status, *(asked(n=n) for n in range(30)))(tmp_path / name)
        assert engine_on(tmp_path / name)[1] == []
    requests(403, *(asked() for _ in range(20)))(tmp_path / "one")
    assert counted(engine_on(tmp_path / "one")[1]) == {"many-refusals-of-an-actor": 1}


def test_log_ins_that_an_api_refuses_count_once(tmp_path: Path) -> None:
    """Four refusals with 401 by a Django site are four, though its middleware looks for 401 as well."""
    log_ins(*((NAMES[n % 3], 9) for n in range(4)), path="/api/")(tmp_path / "four")
    log_ins(*((NAMES[n % 3], 9) for n in range(5)), path="/api/")(tmp_path / "five")
    assert counted(engine_on(tmp_path / "four")[1]) == {}
    assert counted(engine_on(tmp_path / "five")[1]) == {"failed-logins-of-an-address": 1}


def test_what_one_log_raises_hides_nothing_of_another(tmp_path: Path) -> None:
    """While a rule is quiet about a log, an actor or a finding, it says the same of the next one."""
    for n in (1, 2):
        in_a_log(flood, buffer_events=100)(tmp_path / f"{n}")
        (tmp_path / f"{n}/orders").rename(tmp_path / f"{n}/orders{n}")
    assert [alert.log for alert in engine_on(tmp_path / "1", tmp_path / "2")[1]] == ["orders1/00", "orders2/00"]
    findings = times(2, lambda n: AuditCollectionFinding(log=f"l{n}", kind="fork", reason="r"))
    suspicions = times(2, lambda n: msgspec.structs.replace(SUSPICION, actor=ActorInfo(user_id=f"u{n}")))

    async def find(audit: AuditLogger) -> None:
        for finding in findings:
            record_own(audit, finding)

    in_a_log(find)(tmp_path / "3")
    emits(*suspicions)(tmp_path / "3")
    assert counted(engine_on(tmp_path / "3")[1]) == {"trail-changed": 2, "suspicious-activity": 2}


@pytest.mark.parametrize("rule", starter_rules(), ids=lambda rule: rule.name)
def test_a_rule_that_counts_all_together_is_never_quiet(rule: Any) -> None:
    """A rule with a cool-down counts something apart: one that is provoked would hide all others."""
    assert not rule.cool_down_s or rule.group_by or rule.per_log or rule.silence_s


def test_a_person_who_is_erased_is_one_alert(tmp_path: Path) -> None:
    """However many keys that takes: each record of an erasure has the erasure's id."""
    (alert,) = (person(erase=True)(tmp_path / "audit"), engine_on(tmp_path / "audit")[1])[1]
    assert alert.group is not None
    assert len(alert.group["event.erasure_id"]) > 8
