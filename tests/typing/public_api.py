"""What a user writes, with the types that he sees: `mypy --strict` checks this file, nothing runs it.

`assert_type` says what a call returns. A `type: ignore` with its code says what mypy has to refuse: an ignore that is
not needed is an error itself.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, ClassVar, assert_type

from fastapi import Depends, FastAPI
from flask import Flask
from sqlalchemy import Engine, MetaData
from sqlalchemy.orm import Session, sessionmaker
from starlette.requests import Request

import audit_async
from audit_async import (
    ActorInfo,
    AuditConfig,
    AuditError,
    AuditEvent,
    AuditLogger,
    AuthMethod,
    Batched,
    BufferFull,
    Disabled,
    ErasureReport,
    Health,
    Hold,
    Hybrid,
    Immediate,
    Local,
    LoggerStats,
    Position,
    Receipt,
    Redaction,
    RetentionPolicy,
    RetentionReport,
    Transparency,
    acting_as,
    audit_context,
    audited,
    bind_context,
    current_actor,
    set_audit,
    tlog,
    unbind_context,
    use_audit,
)
from audit_async.ambient import AnyLogger, AuditSource
from audit_async.config import Forward, Verification
from audit_async.delivery import (
    DeliverableRecord,
    DeliveredLog,
    Deliverer,
    DeliverSettings,
    DeliveryStatus,
    HttpSettings,
    read_deliver_settings,
    verify_signature,
)
from audit_async.delivery.alerts import AlertEngine, AlertRule, RuleTrial, notes_on, starter_rules, try_rules
from audit_async.delivery.siem_formats import Actor, OcsfClass, OcsfFormat, OcsfMapping, Text
from audit_async.events import AuthFailure, DataDeleted, Personal, Record, decode_record
from audit_async.evidence import ProvenLog, ProvenRecord, verify_evidence
from audit_async.forwarding import (
    Batch,
    BucketCopy,
    CheckedSetting,
    Collector,
    Confirmation,
    DirectorySink,
    Finding,
    Forwarder,
    Head,
    HeadMoved,
    Limits,
    LogIdentity,
    NatsSink,
    PostgresSink,
    PushedLog,
    RestoredLog,
    Shard,
    ShippingStatus,
    Sink,
    WormArchive,
    check_confirmations,
    durable_tail,
    open_engine,
    open_sink,
)
from audit_async.integrations.agent_tools import AuditedTools
from audit_async.integrations.command_line import audited_command
from audit_async.integrations.django import AuditMiddleware as DjangoMiddleware
from audit_async.integrations.django import actor_of as django_actor_of
from audit_async.integrations.django import audit_model, get_asgi_application, register
from audit_async.integrations.fastapi import Audit, AuditMiddleware, Policy, Rule, audit_lifespan, get_audit
from audit_async.integrations.flask import setup_audit
from audit_async.integrations.health import readiness
from audit_async.integrations.logging import AuditHandler
from audit_async.integrations.loguru import AuditSink
from audit_async.integrations.mcp import AuditedCalls
from audit_async.integrations.opentelemetry import AuditMeters
from audit_async.integrations.prometheus import AuditCollector
from audit_async.integrations.sqlalchemy import SessionAudit, audit_session, marker_table, resolve_unfinished
from audit_async.integrations.structlog import AuditProcessor
from audit_async.integrations.wsgi import AuditedApp
from audit_async.privacy import (
    Destroyed,
    ErasureRequest,
    ErasureRules,
    ExternalMasterKey,
    KeyStore,
    KeyStoreStatus,
    StoreCopy,
    Subject,
    copy_key_store,
    create_key_store,
    key_store_status,
    open_key_store,
)
from audit_async.reader import AuditQuery, AuditReader, Evidence, ExportReport, Glob, Page, PlacedRecord, VerifyReport
from audit_async.reports import Report, WrittenReport, check_report, make_report, write_report
from audit_async.sync import SyncAuditLogger
from audit_async.testing import AuditTrail
from audit_async.tlog import SignedCheckpoint, TlogProof, VerifiedCheckpoint
from audit_async.viewer import (
    AccessNotRecorded,
    EmbedLinks,
    LinkRefused,
    NotPermitted,
    OidcSignIn,
    Person,
    PersonOf,
    ProxySignIn,
    Role,
    Roles,
    TokenSignIn,
    Viewer,
    ViewLimits,
    embed_link,
    read_embed_key,
    viewer,
)


class RefundForced(AuditEvent, tag="typing.refund_forced"):
    """An event of one's own."""

    critical: ClassVar[bool] = True

    actor: ActorInfo
    invoice_id: str
    email: Annotated[str | None, Personal(subject="actor.user_id")] = None
    amount_cents: int = 0


def configure(critical_at_once: bool = True) -> AuditConfig:
    """Settings in code, from a file, from the environment, from a preset; misspelt and mistyped ones are refused."""
    assert_type(AuditConfig.load("audit.toml", service_id="orders"), AuditConfig)
    assert_type(AuditConfig.from_env(), AuditConfig)
    assert_type(AuditConfig.preset("hipaa", mode=Local("/var/lib/audit"), service_id="orders"), AuditConfig)
    AuditConfig(mode=Local("./audit"), service="orders")  # type: ignore[call-arg]
    AuditConfig(mode="./audit", service_id="orders")  # type: ignore[arg-type]
    AuditConfig.preset("sox", mode=Local("."), service_id="orders")  # type: ignore[arg-type]
    AuditConfig(mode=Disabled(), flush_mode=Batched(size="100"))  # type: ignore[arg-type]
    return AuditConfig(
        mode=Local(Path("./audit")),
        service_id="orders",
        flush_mode=Hybrid(batch_size=500, batch_interval=0.5) if critical_at_once else Immediate(),
        retention=RetentionPolicy(min_retention_days=365, archive_after_days=30, delete_after_days=730),
        redaction=Redaction(extra_keys=("national_id",)),
        transparency=Transparency(key="credential:audit-key"),
        verification=Verification(interval=60, full_every_days=3, state_dir=Path("/var/lib/verified")),
        on_unsafe="reject",
    )


def events(actor: ActorInfo) -> list[AuditEvent]:
    """Events check what they are made of."""
    AuthFailure(reason="bad_password", ip="203.0.113.9")  # type: ignore[call-arg]
    RefundForced(actor=actor, invoice_id=17)  # type: ignore[arg-type]
    assert_type(RefundForced.critical, bool)
    return [
        AuthFailure(attempted_user="mallory", reason="bad_password", ip="203.0.113.9", path="/login"),
        RefundForced(actor=ActorInfo(user_id="dana", auth_method=AuthMethod.M_TLS), invoice_id="17"),
    ]


async def write(event: AuditEvent) -> None:
    """The life of a logger."""
    async with AuditLogger(configure()) as audit:
        assert_type(audit, AuditLogger)
        receipt = audit.emit(event)
        assert_type(receipt, Receipt)
        assert_type(receipt.audit_id, str)
        position = await receipt.durable()
        assert_type(position, Position)
        assert_type((position.seq, position.hash), tuple[int, str])
        assert_type(await audit.emit(event), Position)
        assert_type(await audit.emit_durable(event), Position)
        await audit.flush()
        audit.emit("log in failed")  # type: ignore[arg-type]
        audit.emit(AuthFailure)  # type: ignore[arg-type]
        assert_type(audit.health(), Health)
        assert_type(audit.health().ok, bool)
        assert_type(audit.stats(), LoggerStats)
        assert_type(await audit.apply_retention(dry_run=True), RetentionReport)
        assert_type(await audit.erase_subject("alice", reason="art. 17", requested_by="dpo"), ErasureReport)
        request = await audit.request_erasure("alice", reason="art. 17", requested_by="dpo")
        assert_type(request, ErasureRequest)
        assert_type(await audit.approve_erasure(request.request_id, "alice", approved_by="head"), ErasureRequest)
        assert_type(await audit.cancel_erasure(request.request_id, reason="evidence", cancelled_by="head"), None)
        assert_type(await audit.waiting_erasures(), tuple[ErasureRequest, ...])
        assert_type(await audit.execute_erasures(), tuple[ErasureReport, ...])
        assert_type(await audit.erasure_rules(), ErasureRules)
        await audit.change_erasure_rules(ErasureRules(delay_s=86_400), reason="policy 7", changed_by="dpo")
        assert_type(await audit.set_hold(reason="case 4711", set_by="legal@example.com"), Hold)
        assert_type(await audit.hold(), Hold | None)
        try:
            audit.emit(event)
        except BufferFull as error:
            failed: AuditError = error
            print(failed)  # noqa: T201 - what a user does


def write_blocking(event: AuditEvent) -> None:
    """The same without an event loop."""
    with SyncAuditLogger(configure()) as audit:
        assert_type(audit, SyncAuditLogger)
        receipt = audit.emit(event)
        assert_type(receipt.wait(timeout_s=5), Position)
        assert_type(audit.emit_durable(event, timeout_s=5), Position)
        assert_type(audit.record_access("carol", {"actor": "bob"}, 3), Receipt)
        assert_type(audit.record_export("carol", format="csv", records=3, sha256="", unsealed=False), Receipt)
        assert_type(audit.prove(receipt, timeout_s=5), TlogProof)
        assert_type(audit.checkpoint(), SignedCheckpoint)
        assert_type(audit.apply_retention(dry_run=True), RetentionReport)
        assert_type(audit.set_hold(reason="case 4711", set_by="legal@example.com"), Hold)
        assert_type(audit.hold(), Hold | None)
        assert_type(audit.lift_hold(reason="settled", lifted_by="legal@example.com"), None)
        assert_type(audit.erase_subject("alice", reason="art. 17", requested_by="dpo"), ErasureReport)
        request = audit.request_erasure("alice", reason="art. 17", requested_by="dpo")
        assert_type(request, ErasureRequest)
        assert_type(audit.approve_erasure(request.request_id, "alice", approved_by="head"), ErasureRequest)
        assert_type(audit.cancel_erasure(request.request_id, reason="evidence", cancelled_by="head"), None)
        assert_type(audit.waiting_erasures(), tuple[ErasureRequest, ...])
        assert_type(audit.execute_erasures(), tuple[ErasureReport, ...])
        assert_type(audit.erasure_rules(), ErasureRules)
        audit.change_erasure_rules(ErasureRules(delay_s=86_400), reason="policy 7", changed_by="dpo")
        audit.erase_subject("alice")  # type: ignore[call-arg]


def contexts() -> None:
    """Context has values of JSON's plain types."""
    with audit_context(request_id="7f3a", attempt=1, internal=None):
        token = bind_context(tenant="acme")
        unbind_context(token)
    bind_context(request={"id": 1})  # type: ignore[arg-type]


async def read() -> None:
    """Verifying and asking."""
    reader = AuditReader("./audit")
    report = await reader.verify(state=Path("/var/lib/verified/state"), full_every=timedelta(days=3))
    assert_type(report.to_dict(), dict[str, object])
    assert_type(report.logs[0].verified_before, str | None)
    assert_type(report, VerifyReport)
    assert_type(report.valid, bool)
    query = AuditQuery(event_types=("auth.*",), actor="mallory")
    records = reader.query(query)
    assert_type(records, AsyncGenerator[Record, None])
    async for record in records:
        assert_type(record, Record)
        assert_type(record.event, AuditEvent)
        if isinstance(record.event, AuthFailure):
            assert_type(record.event.attempted_user, str | None)
    assert_type(await reader.page(query), Page)
    assert_type(await reader.count(query), dict[str, int])
    assert_type(await reader.record(audit_id="5f0c1e9b7a3d2c48-1"), PlacedRecord)
    assert_type(await reader.export("evidence.zip", "bundle", query), ExportReport)
    selective: Evidence = "selective"
    assert_type(await reader.export("e.zip", "bundle", evidence=selective, disclose=["actor.user_id"]), ExportReport)
    assert_type(await reader.export(sys.stdout.buffer, "csv", query), ExportReport)
    async for batch in reader.record_batches(query, on_damage="skip"):
        assert batch.num_rows
    assert_type(decode_record(b"{}"), Record)
    AuditQuery(ip="203.0.113.0/24", path=Glob("/admin/*"), status="5xx", outcome="failure", actor=Glob("svc-*"))
    AuditQuery(status=404, fields={"actor.role": "admin", "scope": ("read", "write")})
    AuditQuery(status=40.4)  # type: ignore[arg-type]
    AuditQuery(actors=("mallory",))  # type: ignore[call-arg]


def serve(audit: AuditLogger) -> FastAPI:
    """The life span, the middleware and the dependency of FastAPI; metrics and logs."""
    app = FastAPI(lifespan=audit_lifespan(configure()))
    policy = Policy([Rule("/health", level="none"), Rule("/admin/**", methods=["POST"], level="request")])
    app.add_middleware(AuditMiddleware, policy=policy, trusted_proxies=["10.0.0.0/8"])
    Rule("/health", level="nothing")  # type: ignore[arg-type]

    @app.delete("/customers/{customer_id}")
    def erase(customer_id: str, audit: Audit) -> None:
        assert_type(audit, AuditLogger)
        audit.emit(DataDeleted(customer_id=customer_id, data_types=["orders"], reason="gdpr_art_17"))

    @app.get("/")
    async def index(audit: Annotated[AuditLogger, Depends(get_audit)]) -> dict[str, bool]:
        return {"ok": audit.health().ok}

    ready, answer = readiness(audit)
    assert_type(ready, bool)
    details: Mapping[str, object] = answer
    AuditHandler(audit, threshold="CRITICAL").setLevel(str(details and "INFO"))
    AuditProcessor(lambda: audit)
    AuditSink(lambda: audit)
    AuditedCalls(audit, ActorInfo(user_id="agent"))
    refund = AuditedTools(audit, ActorInfo(user_id="agent")).tool(_refund)
    assert_type(refund("o-7", 5), str)
    AuditCollector(audit)
    with AuditMeters(audit):
        return app


async def sqlalchemy_sessions(sessions: sessionmaker[Session], engine: Engine, audit: AuditLogger) -> None:
    """Sessions that record what they change, and what a crash left."""
    marker = marker_table(MetaData())
    assert_type(audit_session(sessions, [], relation="intent", marker=marker), SessionAudit)
    audit_session(sessions, [], audit=lambda: audit, relation="before")  # type: ignore[arg-type]
    audit_session(engine, [])  # type: ignore[arg-type]
    assert_type((await resolve_unfinished(AuditReader("./audit"), audit, engine, marker=marker)).committed, list[str])
    async for record in AuditReader("./audit").unfinished():
        assert_type(record, Record)


def key_store(kms: ExternalMasterKey) -> KeyStore:
    """A key store: made, opened by any source, copied, looked at."""
    create_key_store("keys", kms, normalize="NFC-casefold")
    create_key_store("keys", kms, normalize="upper")  # type: ignore[arg-type]
    assert_type(copy_key_store("keys", Path("copy")), StoreCopy)
    assert_type(key_store_status("keys"), KeyStoreStatus)
    store: KeyStore = open_key_store("keys", "file:master.key", trail="audit")
    found = store.find(Subject("", "user", "alice"))
    assert_type(store.keys(found), dict[bytes, bytes | Destroyed])
    assert_type(store.open_session("orders/00").insert([]), list[bytes])
    return store


def evidence(policy: tlog.Policy) -> list[object]:
    """Selective evidence, checked from a path or a text."""
    logs = verify_evidence("evidence.zip", policy)
    assert_type(logs, tuple[ProvenLog, ...])
    assert_type(verify_evidence(Path("evidence.zip"), policy)[0].records, tuple[ProvenRecord, ...])
    assert_type(logs[0].verified, VerifiedCheckpoint)
    verify_evidence("evidence.zip", "a key")  # type: ignore[arg-type]
    return [one.value for log in logs for record in log.records for one in record.disclosed]


async def worm_storage() -> None:
    """A bucket that locks: checked, pushed to, restored from."""
    async with WormArchive("s3://audit-worm/web-1") as archive:
        assert_type(await archive.check(), list[CheckedSetting])
        pushed = await archive.push("audit/orders/00", retention_days=2555, keep_plain_personal_data=False)
        assert_type(pushed, PushedLog)
        assert_type(pushed.head, Head | None)
        assert_type((await archive.status(Path("audit/orders/00"))).missing, tuple[str, ...])
        assert_type((await archive.lengthen("audit/orders/00", retention_days=3650)).lengthened, int)
        assert_type(await archive.restore("restored", log_ids=[pushed.log_id]), list[RestoredLog])
        await archive.push("audit/orders/00")  # type: ignore[call-arg]


async def viewing() -> None:
    """A trail in a browser: run by itself with a token, behind a proxy, or mounted; and a link for a customer."""
    token = TokenSignIn(Person(name="olga", role="auditor"), print)
    links = EmbedLinks(b"k" * 32, origins=["https://app.example"])
    async with viewer("audit", sign_in=token, embed=links, limits=ViewLimits(search_s=5)) as app:
        assert_type(app, Viewer)
    proxied = ProxySignIn("X-Forwarded-User", peers=["127.0.0.1"])
    assert_type(viewer(Path("audit"), sign_in=proxied, roles=Roles.from_file("roles.toml")), Viewer)
    public_url = "https://audit.example"
    at_provider = OidcSignIn("https://login.example", "viewer", client_secret="s", public_url=public_url)
    assert_type(
        viewer("audit", sign_in=at_provider, roles=Roles.from_file("roles.toml"), public_url=public_url), Viewer
    )
    role: Role = "operator"

    async def looked_up(_: Request) -> Person | None:
        return Person(name="omar", role=role)

    ways: list[PersonOf] = [lambda _: None, looked_up]
    assert_type(viewer("audit", sign_in=ways[0]), Viewer)
    viewer("audit", sign_in="alice")  # type: ignore[arg-type]
    key = read_embed_key("credential:embed")
    assert_type(key, bytes)
    assert_type(embed_link(public_url, key=key, tenant="acme", name="customer 7"), str)
    assert_type(links.person_of("ticket"), Person)
    failures: list[type[AuditError]] = [AccessNotRecorded, LinkRefused, NotPermitted]
    assert failures


async def delivering() -> None:
    """Receivers, of a file or of code; delivered until cancelled, or once; and a receiver's own check."""
    sink = HttpSettings(
        name="siem", url="https://siem.example/", payload="hec", token="file:/etc/audit/token", gzip=True
    )
    settings = DeliverSettings(base_dir="audit", state_dir="state", sinks=(sink,))
    assert_type(read_deliver_settings("deliver.toml"), DeliverSettings)
    deliverer = Deliverer(settings, base_dir=Path("audit"))
    assert_type(await deliverer.run_once(), list[DeliveryStatus])
    assert_type(deliverer.statuses[0].lag_records, int)
    assert_type(verify_signature("t=1,v1=0", b"body", b"key", tolerance_s=60), bool)
    await deliverer.run()


def ocsf() -> bytes:
    """How own events are delivered in OCSF, and a format by itself."""
    mapping = OcsfMapping(
        ocsf_class=OcsfClass.API_ACTIVITY,
        activity=3,
        activity_name="Update",
        members={"actor": Actor(), "invoice_id": Text("resources[].uid")},
    )
    assert mapping.ocsf_class.uid == 6003
    return OcsfFormat(raw_data=True).encode(DeliverableRecord(b"{}", DeliveredLog("0f", "orders", "00", "host")))


async def alerts(reader: AuditReader) -> None:
    """Rules, and what they would have raised."""
    rules: list[AlertRule] = starter_rules()
    trial: RuleTrial = await try_rules(rules, reader)
    assert [alert.rule for alert in trial.alerts] == list(trial.by_rule)
    AlertEngine(rules)
    notes: list[str] = notes_on(rules)
    assert notes == []


async def forwarding(sink: Sink, log: LogIdentity, batch: Batch) -> None:
    """An engine outside of the host: appended to on condition of its head, read, prepared by its administrator."""
    forward = Forward(to="file:///media/audit", tenant="acme", host="web-1", collector_keys=("a",), close_timeout=3)
    async with AuditLogger(AuditConfig(mode=Local("audit"), service_id="orders", forward=forward)) as audit:
        receipt = audit.emit(AuthFailure(attempted_user="m", reason="r", ip="203.0.113.9", path="/"))
        assert_type(await receipt.replicated(by="engine", timeout_s=5), Position)
        assert_type(receipt.wait_replicated(5, by="collector"), Position)
    forwarder = Forwarder(
        "audit", open_sink("file:///media/audit", tenant="acme"), tenant="acme", host="web-1", service="orders",
        instance="00", collector_keys=["collector+id+key"], on_finding=lambda finding: None,
    )  # fmt: skip
    assert_type(await forwarder.run_once(), list[ShippingStatus])
    async for shipped in durable_tail("audit/orders/00", batch.head, follow=False, max_batch_bytes=1000):
        assert_type(shipped, Batch)
    sink = PostgresSink("postgres:///audit", tenant=log.tenant, timeout_s=10)
    DirectorySink.prepare("/media/audit")
    sink = DirectorySink(Path("/media/audit"), tenant=log.tenant, timeout_s=10)
    assert_type(batch.rest_after(batch.first_seq), Batch)
    sink = NatsSink("nats://127.0.0.1", tenant=log.tenant, timeout_s=10)
    head = await sink.head(log)
    assert_type(head, Head | None)
    await sink.describe(log, b"{}")
    assert_type(await sink.description(log), bytes | None)
    confirmed = check_confirmations(await sink.confirmation(log) or b"", ["a vkey"], log_id=log.log_id)
    assert_type(confirmed, tuple[Confirmation, ...])
    assert_type(confirmed[0].buckets, tuple[BucketCopy, ...])
    async with Collector("/srv/audit", sink, tenant=log.tenant, copies=2, shard=Shard(1, 3)) as collector:
        assert_type((await collector.collect()).findings, tuple[Finding, ...])
    try:
        await sink.append(log, batch, after=head, resume=await sink.confirmation(log))
    except HeadMoved as moved:
        assert_type(moved.actual, Head | None)
    async for read in sink.read(log, None):
        assert_type(read, Batch)
    engine = open_engine("postgres:///audit", tenant="acme")
    assert_type(await engine.check(), list[CheckedSetting])
    await engine.grant("web-1", kind="host", secret_file=Path("web-1.pgpass"), limits=Limits(max_logs=3))
    await engine.grant("web-1", kind="admin", secret_file=Path("x"), limits=Limits())  # type: ignore[arg-type]


def test(audit_trail: AuditTrail) -> None:
    """The pytest fixture."""
    audit_trail.audit.emit(AuthFailure(reason="expired", ip="203.0.113.9", path="/login"))
    assert_type(audit_trail.assert_recorded(AuthFailure, reason="expired"), Record)
    assert_type(audit_trail.events(AuthFailure), list[AuthFailure])


def run() -> None:
    """Run on uvloop if it is there."""

    async def main() -> int:
        return 17

    assert_type(audit_async.run(main), int)
    assert_type(audit_async.run(main()), int)


@audited("typing.order_approved", arguments=("order_id",))
def approve(order_id: str, amount: int = 1) -> bool:
    """Approve an order."""
    assert_type(audit_async.get_audit(), AnyLogger)
    assert_type(audit_async.get_audit().emit(events(ActorInfo(user_id="dana"))[0]), Receipt)
    assert_type(current_actor(), ActorInfo | None)
    return amount > 0 and bool(order_id)


@audited("typing.order_sent", failure="typing.order_not_sent", critical=True)
async def send(order_id: str) -> int:
    """Send an order."""
    return len(order_id)


async def ambient(audit: AuditLogger) -> None:
    """The log and the actor of the moment; a decorated function keeps its signature."""
    assert_type(set_audit(audit), AuditSource | None)
    set_audit(lambda: audit)
    set_audit(configure())  # type: ignore[arg-type]
    with use_audit(audit), acting_as(ActorInfo(user_id="dana")):
        assert_type(approve("17", amount=2), bool)
        assert_type(await send("17"), int)
        approve(17)  # type: ignore[arg-type]


@audited_command(parameters=("order_id",))
def _command(order_id: str) -> int:
    return len(order_id)


def _refund(order_id: str, cents: int) -> str:
    return f"{order_id} {cents}"


class Project:
    """A model's class keeps its type under the decorator."""


def django_project(middleware: DjangoMiddleware) -> None:
    """What a Django project uses; Django itself is not typed."""
    assert_type(audit_model(exclude=["note"])(Project), type[Project])
    register(Project, fields=["name"], before="database", keys=True)
    register(Project, before="guessed")  # type: ignore[arg-type]
    assert_type(django_actor_of(middleware), ActorInfo)
    get_asgi_application()


async def reports(audit: AuditLogger, reader: AuditReader) -> None:
    """Reports, from a name or a file, written and checked."""
    report = await make_report(reader, Path("own.toml"), audit=audit, accessed_by="carol", retention=RetentionPolicy())
    assert_type(report, Report)
    assert_type(report.not_counted, tuple[str, ...])
    assert_type(await write_report(report, "own.html", audit=audit, accessed_by="carol"), WrittenReport)
    assert_type(check_report("own.html").signed_by, tuple[str, ...])
    await make_report(reader, "soc2")  # type: ignore[call-arg]


def wsgi(app: Flask) -> None:
    """Synchronous services; the hook is given the framework's own request."""
    assert_type(setup_audit(app, configure(), actor=lambda request: request.remote_user), SyncAuditLogger | None)
    setup_audit(app, configure(), polcy=Policy())  # type: ignore[call-arg]
    assert_type(AuditedApp(app, configure(), trusted_proxies=["10.0.0.0/8"]).audit, SyncAuditLogger)
