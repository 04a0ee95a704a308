"""What receivers of HTTP demand: sizes, pauses, signatures, certificates; and what they say that they have."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import hmac
import itertools
import json
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from aiohttp import web

from audit_async.delivery import DeliveryState, OtlpSettings, SendResult, http_connection, sink_gate
from audit_async.delivery.reconciliation import Reconciled, reconcile
from audit_async.errors import ConfigError
from audit_async.events import AuthFailure
from tests.delivery.certificates import Certificates, asking_for_certificates
from tests.delivery.delivering import (
    deliver_once,
    delivering,
    http,
    lines_of_log,
    position_of,
    settings,
    until,
    write_events,
    write_trail,
)
from tests.delivery.http_receiver import Receiver, Request, check_received
from tests.delivery.test_receivers import Index
from tests.trails import read_events

pytestmark = pytest.mark.anyio


# -- sizes ------------------------------------------------------------------------------------------------------------


def taking(most_bytes: int) -> Callable[[Request], web.Response | None]:
    """Return what refuses larger bodies."""
    return lambda request: web.Response(status=413) if len(request.text) > most_bytes else None


async def test_a_size_that_was_too_large_is_not_sent_again(tmp_path: Path) -> None:
    """It is learned from one batch: of all the others none is refused, for the logs that come later too."""
    directory = await write_trail(tmp_path / "audit", 600)
    receiver = Receiver(answer=taking(20_000))
    async with receiver.listening() as url:
        [status] = await deliver_once(settings(tmp_path, http(url, max_records=100, max_bytes=64 << 10)))
    assert (status.state, status.lag_records, status.set_aside) == (DeliveryState.CAUGHT_UP, 0, 0)
    assert receiver.accepted == lines_of_log(directory)
    refused = [index for index, one in enumerate(receiver.requests) if len(one.text) > 20_000]
    assert 1 <= len(refused) <= 2
    assert refused[-1] < 3
    assert len(receiver.requests) < 25


async def test_a_smaller_size_lasts_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the doubled size is tried, so that a receiver that was set right gets large batches again."""
    monkeypatch.setattr(sink_gate, "_LARGER_AFTER_S", 0.0)
    directory = await write_trail(tmp_path / "audit", 600)
    receiver = Receiver()
    receiver.answer = lambda one: taking(9_000)(one) if len(receiver.accepted) < 50 else None
    async with receiver.listening() as url:
        await deliver_once(settings(tmp_path, http(url, max_records=100, max_bytes=64 << 10)))
    assert receiver.accepted == lines_of_log(directory)
    assert max(len(one.text) for one in receiver.requests[-3:]) > 20_000


async def test_a_record_that_is_refused_for_its_content_makes_no_batch_smaller(tmp_path: Path) -> None:
    """Some receivers answer 413 for it too; a batch of more bytes was taken, so it is not the size."""
    directory = await write_trail(tmp_path / "audit", 200)
    receiver = Receiver(answer=lambda one: web.Response(status=413) if b'"/login/7"' in one.text else None)
    async with receiver.listening() as url:
        [status] = await deliver_once(settings(tmp_path, http(url, max_records=50)))
    assert status.set_aside == 1
    check_received(receiver.accepted, [line for line in lines_of_log(directory) if b'"/login/7"' not in line])
    assert 50 in [len(one.text.splitlines()) for one in receiver.requests[-3:]]


async def test_a_record_that_is_too_large_alone_is_set_aside(tmp_path: Path) -> None:
    """The others arrive, those of the same batch and those after it."""
    texts = ["x" * (1000 if n == 5 else 10) for n in range(60)]
    events = [AuthFailure(reason=text, attempted_user=text, ip="203.0.113.9", path=text) for text in texts]
    directory = await write_events(tmp_path / "audit", *events)
    receiver = Receiver(answer=taking(2500))
    async with receiver.listening() as url:
        [status] = await deliver_once(settings(tmp_path, http(url, max_records=5)))
    assert (status.state, status.set_aside) == (DeliveryState.CAUGHT_UP, 1)
    assert receiver.accepted == [line for line in lines_of_log(directory) if len(line) < 2500]


async def test_a_receiver_that_refuses_everything_is_not_asked_for_each_record(tmp_path: Path) -> None:
    """A few records are enough to know it, of a thousand."""
    await write_trail(tmp_path / "audit", 998)
    receiver = Receiver(answer=lambda _: web.Response(status=422))
    async with receiver.listening() as url:
        [status] = await deliver_once(settings(tmp_path, http(url)))
    assert (status.state, status.set_aside, status.seq) == (DeliveryState.REFUSING, 0, -1)
    assert len(receiver.requests) < 60


async def test_a_bulk_interface_that_refuses_everything_is_waited_for(tmp_path: Path) -> None:
    """It answers 200 and refuses each document, as a closed index does: no record is set aside for that."""
    directory = await write_trail(tmp_path / "audit", 98)
    index = Index()
    index.refused = b"{"
    receiver = Receiver(answer=index.answer)
    async with receiver.listening() as url:
        given = settings(tmp_path, http(url, payload="bulk", index="audit", max_records=10))
        [status] = await deliver_once(given)
        assert (status.state, status.set_aside, status.seq) == (DeliveryState.REFUSING, 0, -1)
        assert not (tmp_path / "state/siem/set-aside.ndjson").exists()
        index.refused = b'"/login/7"'
        [status] = await deliver_once(given)
    assert (status.state, status.set_aside) == (DeliveryState.CAUGHT_UP, 1)
    assert len(index.documents) == len(lines_of_log(directory)) - 1


async def test_what_was_taken_before_a_failure_is_not_sent_again(tmp_path: Path, quick: None) -> None:
    """A batch in many parts gets through a receiver that answers every third request with 503."""
    directory = await write_trail(tmp_path / "audit", 400)
    receiver = Receiver()

    def answer(request: Request) -> web.Response | None:
        return web.Response(status=503) if len(receiver.requests) % 3 == 0 else taking(2_000)(request)

    receiver.answer = answer
    async with receiver.listening() as url, delivering(settings(tmp_path, http(url))):
        await until(lambda: len(receiver.accepted) >= 402)
    assert receiver.accepted == lines_of_log(directory)


# -- pauses -----------------------------------------------------------------------------------------------------------


async def test_after_401_one_log_asks_for_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong credentials are shown once in each pause, however many logs there are; an account is not locked by it."""
    monkeypatch.setattr(sink_gate, "_SLOW_RETRY_S", 1.0)
    directories = [await write_trail(tmp_path / "audit", 3, service=f"s{n}") for n in range(6)]
    times: list[float] = []
    receiver = Receiver()

    def answer(_: Request) -> web.Response | None:
        times.append(time.monotonic())
        return web.Response(status=401) if len(times) <= sink_gate.AT_A_TIME + 2 else None

    receiver.answer = answer
    async with receiver.listening() as url, delivering(settings(tmp_path, http(url, services=()))) as deliverer:
        await until(lambda: any(one.state is DeliveryState.UNAUTHORIZED for one in deliverer.statuses))
        wanted = {line for directory in directories for line in lines_of_log(directory)}
        await until(lambda: wanted <= set(receiver.accepted))
    first = times[: sink_gate.AT_A_TIME + 3]
    late = [after - before for before, after in itertools.pairwise(first) if after - before > 0.4]
    assert len(late) >= 2, first  # the first ones at the same time, then one after each pause
    kinds = [one["event"].get("kind") for one in read_events(tmp_path / "audit/audit-deliver/00")]
    assert kinds.count("unauthorized") == 1


async def test_a_log_whose_records_are_refused_keeps_no_other_waiting(tmp_path: Path) -> None:
    """The receiver takes those of another log meanwhile, without a pause."""
    await write_trail(tmp_path / "audit", 3, service="wrong")
    directory = await write_trail(tmp_path / "audit", 3)
    receiver = Receiver(answer=lambda one: web.Response(status=400) if b'"service_id":"wrong"' in one.text else None)
    async with receiver.listening() as url, delivering(settings(tmp_path, http(url, services=("orders", "wrong")))):
        await until(lambda: len(receiver.accepted) >= 5)
        for first in range(3, 9, 3):
            before = len(receiver.accepted)
            await write_trail(tmp_path / "audit", 3, first=first)
            await until(lambda before=before: len(receiver.accepted) > before)  # type: ignore[misc]  # a default
    assert set(receiver.accepted) <= set(lines_of_log(directory))


@pytest.mark.parametrize(
    ("value", "least_s", "most_s"),
    [
        ("7", 7, 7),
        ("0", 0, 0),
        ("99999999999999999999", 10_000, float("inf")),
        (timedelta(hours=2), 7000, 7201),
        (timedelta(hours=-2), 0, 0),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 10_000, float("inf")),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | timedelta, least_s: float, most_s: float) -> None:
    """Of RFC 9110; and no receiver is left alone for longer than an hour."""
    if isinstance(value, timedelta):
        value = format_datetime(datetime.now(UTC) + value, usegmt=True)
    found = http_connection._retry_after_s(value)
    assert found is not None
    assert least_s <= found <= most_s
    gate = sink_gate.SinkGate(_Nothing())
    gate.failed(http_connection.result_of(http_connection.Answer(503, b"", found)))  # type: ignore[arg-type]  # failed
    assert min(least_s, 3590) - 1 <= gate.opens_in_s <= 3600


class _Nothing:
    """A sink that is never sent to."""

    overlap_s = 0.0
    breaks = 0

    async def send(self, batch: object) -> SendResult:
        """Fail."""
        raise AssertionError

    async def finish(self) -> bool:
        """Do nothing."""
        return True


@pytest.mark.parametrize(
    "value",
    ["-5", "1.5", "", "soon", "²", "nan", "Wed, 21 Oct 99999 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00 -" + "9" * 30],
)
def test_a_retry_after_that_is_none_is_left_out(value: str) -> None:
    """It is for the deliverer then."""
    assert http_connection._retry_after_s(value) is None


def test_failures_of_the_same_moment_count_once() -> None:
    """Of the logs that send at a time each fails; the wait is doubled once, not for each."""
    gate = sink_gate.SinkGate(_Nothing())
    result = http_connection.result_of(http_connection.Answer(503, b"", None))
    assert result is not None
    for _ in range(sink_gate.AT_A_TIME):
        gate.failed(result)
    assert gate.opens_in_s <= 1.0
    assert gate._retry_s == 1.0


# -- bulk -------------------------------------------------------------------------------------------------------------


async def test_a_receiver_that_takes_half_of_each_bulk_gets_everything(tmp_path: Path, quick: None) -> None:
    """What it took from the first on is not sent again, and each document is there once."""
    directory = await write_trail(tmp_path / "audit", 62)
    index = Index()
    receiver = Receiver()

    def answer(request: Request) -> web.Response:
        count = len(request.text.splitlines()) // 2
        response = index.answer(request)
        items = json.loads(response.body)["items"]  # type: ignore[arg-type]  # bytes
        for item in items[(count + 1) // 2 :]:
            index.documents.pop(item["create"]["_id"])
            item["create"]["status"] = 429
        return web.json_response({"errors": count > 1, "items": items})

    receiver.answer = answer
    async with receiver.listening() as url, delivering(settings(tmp_path, http(url, payload="bulk", index="audit"))):
        await until(lambda: len(index.documents) == 64)
    assert list(index.documents.values()) == [json.loads(line) for line in lines_of_log(directory)]
    assert sum(len(one.text.splitlines()) // 2 for one in receiver.requests) <= 2 * 64 + 8
    await until(lambda: position_of(tmp_path).seq == 63)


# -- who sends --------------------------------------------------------------------------------------------------------


def signed_by(request: Request, key: bytes, now: float) -> bool:
    """Check a signature as docs/delivery.md describes it, with nothing of the library."""
    parts = dict(part.split("=", 1) for part in request.headers["Audit-Signature"].split(","))
    mac = hmac.new(key, parts["t"].encode() + b"." + request.body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(mac, parts["v1"]) and abs(now - int(parts["t"])) <= 60


async def test_an_independent_receiver_checks_signature_time_and_compression(tmp_path: Path, quick: None) -> None:
    """It takes what is signed now with its key, over the compressed body; with another key everything waits."""
    directory = await write_trail(tmp_path / "audit", 300)
    secret = tmp_path / "hmac"
    secret.write_text("not the key\n")
    secret.chmod(0o600)
    receiver = Receiver(
        answer=lambda one: None if signed_by(one, b"what both know", time.time()) else web.Response(status=401)
    )
    receiver.read = lambda one: gzip.decompress(one.body).splitlines()
    sink = {"hmac_key": f"file:{secret}", "gzip": True}
    async with receiver.listening() as url, delivering(settings(tmp_path, http(url, **sink))) as deliverer:
        await until(lambda: any(one.state is DeliveryState.UNAUTHORIZED for one in deliverer.statuses))
        assert not receiver.accepted
        secret.write_text("what both know\n")
        await until(lambda: len(receiver.accepted) == 302)
    assert receiver.accepted == lines_of_log(directory)
    last = receiver.requests[-1]
    assert last.headers["Content-Encoding"] == "gzip"
    assert len(last.body) < len(last.text) / 2
    assert not signed_by(last, b"what both know", time.time() + 61)
    assert not signed_by(last._replace(body=last.body + b"\0"), b"what both know", time.time())


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_receiver_that_ends_connections_without_a_word(tmp_path: Path, scheme: str) -> None:
    """Over TLS that is what one may do that wants another certificate: Python 3.13 shows nothing else of it."""
    await write_trail(tmp_path / "audit", 5)
    certificates = Certificates(tmp_path)
    context = asking_for_certificates(certificates)
    context.verify_mode = ssl.CERT_NONE

    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(end, "127.0.0.1", 0, ssl=context if scheme == "https" else None)
    async with server:
        url = f"{scheme}://localhost:{server.sockets[0].getsockname()[1]}/"
        members: dict[str, object] = {"ca_file": str(certificates.ca_file)} if scheme == "https" else {}
        [status] = await deliver_once(settings(tmp_path, http(url=url, **members)))
    assert status.state is not DeliveryState.CAUGHT_UP
    assert status.problem is not None
    assert "does not answer" in status.problem
    assert ("client_cert" in status.problem) is (scheme == "https")


@pytest.mark.parametrize("kind", ["http", "otlp"])
async def test_a_receiver_may_demand_a_certificate(tmp_path: Path, kind: str) -> None:
    """With it the records arrive; without it, or with one of another authority, nothing does, and nothing is lost."""
    directory = await write_trail(tmp_path / "audit", 5)
    certificates = Certificates(tmp_path)
    (tmp_path / "other").mkdir()
    ours, theirs = certificates.issue("web-1"), Certificates(tmp_path / "other").issue("web-1")
    receiver = Receiver()
    async with receiver.listening(tls=asking_for_certificates(certificates)) as url:
        for shown in (None, theirs, ours):
            members: dict[str, object] = {"url": url, "ca_file": str(certificates.ca_file)}
            if shown is not None:
                members |= {"client_cert": str(shown.certificate), "client_key": str(shown.key)}
            common: dict[str, object] = {"name": "siem", "services": ("orders",), "timeout_s": 60.0}
            sink = http(**members) if kind == "http" else OtlpSettings(**(common | members))  # type: ignore[arg-type]
            if kind == "otlp":
                receiver.accepted_answer = lambda _: web.Response(body=b"")
            [status] = await deliver_once(settings(tmp_path, sink))
            assert bool(receiver.requests) is (shown is ours)
            if shown is not ours:
                # Whether the reason of the receiver's end arrives before it is a matter of chance.
                assert status.state is not DeliveryState.CAUGHT_UP
                assert status.seq == -1
                assert "cert" in (status.problem or "").lower()
    assert (status.state, status.lag_records) == (DeliveryState.CAUGHT_UP, 0), status.problem
    if kind == "http":
        assert receiver.accepted == lines_of_log(directory)


# -- reconciliation ---------------------------------------------------------------------------------------------------


class Counting(Receiver):
    """A receiver that says how many records it has."""

    def __init__(self) -> None:
        super().__init__(answer=self._said)
        self.counts: list[str] = []
        self.status = 200
        self.lacks = 0
        self.last: str | None = None
        self.late = 0  # so many answers are those of an index that does not show its newest

    def _said(self, request: Request) -> web.Response | None:
        if request.body:
            return None
        self.counts.append(request.headers["Authorization"])
        count = len(self.accepted) - self.lacks - (3 if self.late else 0)
        self.late = max(0, self.late - 1)
        body = {"count": count} if self.last is None else {"count": count, "last": self.last}
        return web.json_response(body, status=self.status)


async def test_a_receiver_is_asked_what_it_has(tmp_path: Path, quick: None) -> None:
    """By count_url, with the token; only what it surely lacks is a finding, and that is recorded once."""
    directory = await write_trail(tmp_path / "audit", 20)
    token = tmp_path / "token"
    token.write_text("s3cret")
    token.chmod(0o600)
    receiver = Counting()
    keys = [json.loads(line)["audit_id"] for line in lines_of_log(directory)]
    async with receiver.listening() as url:
        sink = http(url, token=f"file:{token}", count_url=url.replace("records", "count/{log_id}"))
        given = settings(tmp_path, sink)
        await deliver_once(given)

        async def asked() -> Reconciled:
            [found] = await reconcile(given)
            return found

        found = await asked()
        assert (found.sent, found.found, found.last_is_there, found.differs) == (22, 22, None, False)
        assert receiver.counts == ["Bearer s3cret"]
        receiver.late = 1
        assert not (await asked()).differs  # it is asked again
        receiver.last = keys[-1]
        assert (await asked()).last_is_there is True
        receiver.last = "0123456789abcdef-1"  # delivered after the position was read, or of another log
        assert (await asked()).differs is False
        receiver.last = keys[-3]
        assert (await asked()).last_is_there is False
        receiver.last, receiver.lacks = None, 2
        found = await asked()
        assert (found.found, found.differs) == (20, True)
        receiver.status = 500  # with a body that looks like a count
        found = await asked()
        assert (found.found, found.differs) == (None, False)
        assert "500" in (found.problem or "")
    problems = [one["event"] for one in read_events(tmp_path / "audit/audit-deliver/00") if "kind" in one["event"]]
    assert [(one["kind"], one["log"]) for one in problems] == 2 * [("count_differs", "orders/00")]
    assert "20" in problems[-1]["reason"]


async def test_a_count_url_is_no_way_round_encryption(tmp_path: Path) -> None:
    """The token goes there as well."""
    with pytest.raises(ConfigError, match="count_url"):
        http("https://siem.example/", count_url="http://siem.example/count/{log_id}")
