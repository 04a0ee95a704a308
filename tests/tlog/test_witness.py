"""Asking witnesses: what an honest one gives, what a log learns from a refusal, and that nothing waits for one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from audit_async.tlog import witness as witness_module
from audit_async.tlog.checkpoint import Checkpoint, SignedCheckpoint, verify_checkpoint
from audit_async.tlog.failures import LogForked, LogRolledBack, Malformed, TilesDamaged, WitnessFailed, WitnessRefused
from audit_async.tlog.merkle import consistency_proof
from audit_async.tlog.notes import verify_note
from audit_async.tlog.signing_keys import sign_checkpoint
from audit_async.tlog.witness import WitnessClient, Witnesses
from tests.ports import free_port
from tests.tlog.trees import ORIGIN, Cosigner, mth, reader_of, records, signer
from tests.tlog.witness_server import Answer, Witness, serving

pytestmark = pytest.mark.anyio

LOG = records(60)
#: Long enough for a loaded machine; nothing below waits for it but what is meant to.
PATIENCE_S = 60.0


@pytest.fixture
def anyio_backend() -> str:
    """One loop will do: what is asynchronous here is anyio's."""
    return "asyncio"


@pytest.fixture
def witness() -> Iterator[Witness]:
    """An honest witness that knows our log."""
    with serving(Witness(Cosigner(1), signer().key)) as running:
        yield running


async def signed_at(size: int, log: list[bytes] = LOG) -> SignedCheckpoint:
    """Return our checkpoint of that size."""
    return await sign_checkpoint(Checkpoint(ORIGIN, size, mth(log[:size])), [signer()])


def prove(old: int, new: int, log: list[bytes] = LOG) -> list[bytes]:
    """Return a consistency proof."""
    return consistency_proof(old, new, reader_of(log[:new]))


async def test_a_log_that_grows_is_cosigned(witness: Witness) -> None:
    """The first question finds out, by its 409, what the witness has; after that one request each is enough."""
    client = WitnessClient.parse(witness.line)
    for size, requests in ((5, 2), (8, 3), (8, 4), (60, 5)):
        signed = await signed_at(size)
        cosignature = await client.submit(signed, prove, timeout_s=PATIENCE_S)
        assert len(witness.requests) == requests
        note = signed.note.with_signatures([cosignature.signature])
        assert verify_note(note, [witness.cosigner.key])[0].timestamp == cosignature.timestamp
    assert witness.requests[1].startswith(b"old 0\n\nhost.example/orders/00\n5\n")
    assert witness.requests[4].startswith(b"old 8\n")


async def test_a_restarted_log_asks_about_what_it_has(witness: Witness) -> None:
    """A witness that has cosigned the present checkpoint gives a fresh cosignature at the first request."""
    await WitnessClient.parse(witness.line).submit(await signed_at(20), prove, timeout_s=PATIENCE_S)
    before = len(witness.requests)
    await WitnessClient.parse(witness.line).submit(await signed_at(20), prove, timeout_s=PATIENCE_S)
    assert len(witness.requests) == before + 1


async def test_a_log_that_came_back_from_a_backup(witness: Witness) -> None:
    """A witness that has cosigned more than the log has is proof of a rollback, not a failure of the witness."""
    await WitnessClient.parse(witness.line).submit(await signed_at(50), prove, timeout_s=PATIENCE_S)
    with pytest.raises(LogRolledBack, match="at size 50, and the log submits 20") as caught:
        await WitnessClient.parse(witness.line).submit(await signed_at(20), prove, timeout_s=PATIENCE_S)
    assert verify_checkpoint(caught.value.evidence[0], [signer().key]).checkpoint.size == 20


async def test_a_forked_log(witness: Witness) -> None:
    """A witness refuses another history, and the log learns that this is about itself."""
    await WitnessClient.parse(witness.line).submit(await signed_at(20), prove, timeout_s=PATIENCE_S)
    other = LOG[:10] + records(60, salt="other")[10:]
    forked = await signed_at(40, other)
    with pytest.raises(LogForked, match="another history"):
        await WitnessClient.parse(witness.line).submit(
            forked, lambda old, new: prove(old, new, other), timeout_s=PATIENCE_S
        )
    same_size = await signed_at(20, other)
    with pytest.raises(LogForked):
        await WitnessClient.parse(witness.line).submit(same_size, prove, timeout_s=PATIENCE_S)
    assert witness.cosigned == (await signed_at(20)).checkpoint


async def test_a_witness_that_was_ahead_of_what_we_remember(witness: Witness) -> None:
    """Where the witness has cosigned another size than we believe, its 409 says which, and the proof is from there."""
    client, other = WitnessClient.parse(witness.line), WitnessClient.parse(witness.line)
    await client.submit(await signed_at(5), prove, timeout_s=PATIENCE_S)
    await other.submit(await signed_at(30), prove, timeout_s=PATIENCE_S)
    await client.submit(await signed_at(60), prove, timeout_s=PATIENCE_S)
    assert [request.split(b"\n")[0] for request in witness.requests[-2:]] == [b"old 5", b"old 30"]


WRONG_ANSWERS = [
    (Answer(400), r"malformed \(400\)"),
    (Answer(403), r"does not know the key .*\(403\)"),
    (Answer(404), r"ask its operator to add it"),
    (Answer(500), r"status 500"),
    (Answer(302), r"status 302"),
    (Answer(409, b"5\n"), r"without the size"),
    (Answer(409, b"5\n5\n", "text/x.tlog.size"), r"no size"),
    (Answer(409, b"\xff", "text/x.tlog.size"), r"no size"),
    (Answer(409, b"5\n", "text/x.tlog.size; charset=utf-8"), r"contradicts itself"),
    (Answer(200, b""), r"without a cosignature|signature lines"),
    (Answer(200, b"\xff\n"), r"UTF-8"),
    (Answer(200, b"no signature\n"), r"em dash"),
    (Answer(200, Cosigner(1).cosign("another text\n").line().encode()), r"w1 is wrong"),
    (Answer(200, Cosigner(2).cosign("another text\n").line().encode()), r"without a cosignature by"),
    (Answer(200, Cosigner(1).cosign("another text\n").line().encode()[:-1]), r"signature lines"),
    (Answer(200, b"x" * 100_000), r"longer than"),
    (Answer(200, b"\n" * 50), r"signature lines"),
]


@pytest.mark.parametrize(("answer", "reason"), WRONG_ANSWERS)
async def test_a_witness_that_answers_wrong(witness: Witness, answer: Answer, reason: str) -> None:
    """Whatever a witness sends, it is no cosignature, and an error that names witness and reason."""
    witness.instead = lambda _: answer
    with pytest.raises(WitnessFailed, match=reason) as caught:
        await WitnessClient.parse(witness.line).submit(await signed_at(7), prove, timeout_s=PATIENCE_S)
    assert witness.cosigner.key.name in str(caught.value)


async def test_a_cosignature_without_a_time_is_none(witness: Witness) -> None:
    """A witness states when it has seen the log; 0 states nothing."""
    signed = await signed_at(7)
    witness.instead = lambda _: Answer(200, witness.cosigner.cosign(signed.note.text, 0).line().encode())
    with pytest.raises(WitnessFailed, match="without a time"):
        await WitnessClient.parse(witness.line).submit(signed, prove, timeout_s=PATIENCE_S)


async def test_foreign_lines_in_an_answer_are_ignored(witness: Witness) -> None:
    """A witness may answer with cosignatures by several keys; ours is found among them, the others are left."""
    signed = await signed_at(7)
    lines = [Cosigner(number).cosign(signed.note.text).line() for number in (2, 1, 3)]
    witness.instead = lambda _: Answer(200, "".join(lines).encode())
    cosignature = await WitnessClient.parse(witness.line).submit(signed, prove, timeout_s=PATIENCE_S)
    assert cosignature.key == witness.cosigner.key


async def test_tiles_that_are_missing_are_no_witness_s_fault(witness: Witness) -> None:
    """Where we can't make the proof that a witness needs, the error says so, and other witnesses are still asked."""

    def no_proof(_: int, __: int) -> list[bytes]:
        raise TilesDamaged("tile/0/000", "the file is missing")

    client = WitnessClient.parse(witness.line)
    await client.submit(await signed_at(5), prove, timeout_s=PATIENCE_S)
    with pytest.raises(WitnessFailed, match="no proof from there: tile/0/000"):
        await client.submit(await signed_at(9), no_proof, timeout_s=PATIENCE_S)


@pytest.mark.parametrize(
    "line",
    ["", "vkey", f"{signer().key} http://127.0.0.1/", f"{Cosigner(1).key} ftp://127.0.0.1/",
     f"{Cosigner(1).key} http://user@127.0.0.1/", f"{Cosigner(1).key} http:///path", f"{Cosigner(1).key} http://a:b/",
     f"{Cosigner(1).key} http://a/?q", f"{Cosigner(1).key} http://a/\u00fc"],
)  # fmt: skip
async def test_what_does_not_name_a_witness(line: str) -> None:
    """A wrong key or URL is found when the configuration is read."""
    with pytest.raises(Malformed):
        WitnessClient.parse(line)


# -- several of them --------------------------------------------------------------------------------------------------


async def test_one_round_with_one_that_is_down_and_one_that_hangs(witness: Witness) -> None:
    """The round ends at its timeout with what was given; who gave nothing is reported, with the reason."""
    down_at = free_port()
    with serving(Witness(Cosigner(2), signer().key)) as hanging:
        hanging.instead = hanging.hang
        down = WitnessClient(Cosigner(3).key, f"http://127.0.0.1:{down_at}")
        clients = [WitnessClient.parse(hanging.line), down, WitnessClient.parse(witness.line)]
        witnesses = Witnesses(clients)
        signed, answers = await witnesses.cosign(await signed_at(5), prove, timeout_s=3.0)
    assert len(witnesses) == 3
    assert [answer.cosignature is not None for answer in answers] == [False, False, True]
    assert "answer within 3 s" in str(answers[0].error)
    assert "refused" in str(answers[1].error)
    assert [answer.url for answer in answers][1:] == [f"http://127.0.0.1:{down_at}", witness.url.rstrip("/")]
    assert [one.key for one in verify_note(signed.note, [signer().key, witness.cosigner.key])] == [
        signer().key,
        witness.cosigner.key,
    ]


async def test_one_that_fails_is_asked_again(witness: Witness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A witness that is back within the round's time still gives its cosignature."""
    monkeypatch.setattr(witness_module, "_FIRST_PAUSE_S", 0.01)
    failures = iter([Answer(503), Answer(503)])
    witness.instead = lambda _: next(failures, None)
    _, answers = await Witnesses([WitnessClient.parse(witness.line)]).cosign(
        await signed_at(5), prove, timeout_s=PATIENCE_S
    )
    assert answers[0].cosignature is not None
    assert len(witness.requests) == 4


@pytest.mark.parametrize("status", [400, 403, 404])
async def test_one_that_does_not_know_the_log_is_asked_once(witness: Witness, status: int) -> None:
    """Before its operator acts, asking again changes nothing; the round does not wait for it."""
    witness.instead = lambda _: Answer(status)
    _, answers = await Witnesses([WitnessClient.parse(witness.line)]).cosign(
        await signed_at(5), prove, timeout_s=PATIENCE_S
    )
    assert isinstance(answers[0].error, WitnessRefused)
    assert len(witness.requests) == 1


async def test_one_that_failed_is_left_alone_for_a_while(witness: Witness, monkeypatch: pytest.MonkeyPatch) -> None:
    """While its pause lasts, rounds end at once without it; afterwards it is asked, and counts like any other."""
    monkeypatch.setattr(witness_module, "_pause_s", lambda _: 3600.0)
    client = WitnessClient.parse(witness.line)
    witnesses = Witnesses([client])
    witness.instead = lambda _: Answer(503)
    signed = await signed_at(5)
    for reason in ("status 503", "asked again a little later", "asked again a little later"):
        _, answers = await witnesses.cosign(signed, prove, timeout_s=PATIENCE_S)
        assert reason in str(answers[0].error)
    assert len(witness.requests) == 1
    witnesses._not_before[client.key] = anyio.current_time()
    witness.instead = lambda _: None
    _, answers = await witnesses.cosign(signed, prove, timeout_s=PATIENCE_S)
    assert answers[0].error is None


async def test_one_that_is_asked_at_the_end_of_a_round_has_the_whole_time(witness: Witness) -> None:
    """A pause that ends just before the round does costs the witness none of the time that it has for its answer."""

    def slow(_: bytes) -> None:
        time.sleep(0.1)

    witness.instead = slow
    client = WitnessClient.parse(witness.line)
    witnesses = Witnesses([client])
    witnesses._not_before[client.key] = anyio.current_time() + 0.95
    _, answers = await witnesses.cosign(await signed_at(5), prove, timeout_s=1.0)
    assert answers[0].error is None
    assert len(witness.requests) == 2


async def test_pauses_grow_to_a_minute() -> None:
    """Half a second after the first failure, twice as long after each further one, never more than a minute."""
    for failures, longest in ((1, 0.5), (2, 1.0), (5, 8.0), (8, 60.0), (10_000, 60.0)):
        for _ in range(20):
            assert longest / 2 <= witness_module._pause_s(failures) <= longest


async def test_a_finding_about_the_log_is_not_asked_away(witness: Witness) -> None:
    """A witness that says the log was rolled back is asked once, and its answer is reported as what it is."""
    witness.instead = lambda _: Answer(409, b"50\n", "text/x.tlog.size")
    signed, answers = await Witnesses([WitnessClient.parse(witness.line)]).cosign(
        await signed_at(5), prove, timeout_s=PATIENCE_S
    )
    assert isinstance(answers[0].error, LogRolledBack)
    assert len(witness.requests) == 1
    assert signed == await signed_at(5)


async def test_a_round_can_be_cancelled(witness: Witness) -> None:
    """A log that ends does not wait for a witness that hangs."""
    witness.instead = witness.hang
    signed = await signed_at(5)
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as group:
            group.start_soon(
                lambda: Witnesses([WitnessClient.parse(witness.line)]).cosign(signed, prove, timeout_s=2 * PATIENCE_S)
            )
            while not witness.requests:
                await anyio.sleep(0.01)
            group.cancel_scope.cancel()


async def test_no_witnesses_are_no_hindrance(tmp_path: Path) -> None:
    """A log without witnesses keeps its own signature."""
    signed = await signed_at(5)
    assert await Witnesses([]).cosign(signed, prove, timeout_s=1.0) == (signed, ())
