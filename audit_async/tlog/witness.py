"""Witnesses: others who remember what a log has signed, and cosign what is consistent with it.

A log that answers to witnesses can't show one history to one reader and another to the next, and can't go back
to before what they have seen, even if its machine is taken over. They are asked for each checkpoint, all at once, and
nothing waits for them: a witness that is down is reported and asked again next time.

Source: https://c2sp.org/tlog-witness.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import anyio
from anyio import CapacityLimiter, to_thread

from audit_async.errors import AuditError
from audit_async.tlog.checkpoint import SignedCheckpoint
from audit_async.tlog.failures import (
    InconsistentLog,
    InvalidSignature,
    LogForked,
    LogRolledBack,
    Malformed,
    SourceFailed,
    TransparencyError,
    WitnessFailed,
    WitnessRefused,
)
from audit_async.tlog.http_client import Endpoint, Response, request
from audit_async.tlog.merkle import MAX_SIZE
from audit_async.tlog.notes import Signature, VerifierKey, encode_base64, parse_decimal

_MAX_ANSWER_BYTES: Final = 64 * 1024
_MAX_SIGNATURE_LINES: Final = 16
_SIZE_TYPE: Final = "text/x.tlog.size"
#: A witness may be sent a wrong old size once, and once more if a submission of ours arrived in between.
_MOST_CONFLICTS: Final = 3
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 60.0

#: Takes old and new size, returns the consistency proof; called in a worker thread.
Prover = Callable[[int, int], Sequence[bytes]]


class Cosignature(NamedTuple):
    """A witness's verified signature on one of our checkpoints."""

    key: VerifierKey
    signature: Signature
    timestamp: int  #: POSIX seconds, as the witness says


class WitnessAnswer(NamedTuple):
    """What came of asking one witness about one checkpoint."""

    key: VerifierKey
    url: str
    cosignature: Cosignature | None
    error: TransparencyError | None  #: `WitnessFailed`, or `InconsistentLog`, which is about the log


class WitnessClient:
    """Asks one witness. Used by one task at a time."""

    def __init__(self, key: VerifierKey, url: str) -> None:
        """Name a witness by its key for cosignatures and the URL prefix it takes submissions at; raises `Malformed`."""
        if not key.type.is_cosignature:
            raise Malformed("witness", f"{key.name} needs a key for cosignatures, of type 0x04 or 0x06")
        self.key: Final = key
        self.endpoint: Final = Endpoint.parse(url)
        # A thread of its own: one that hangs must not keep others, or the host, from theirs.
        self._threads: Final = CapacityLimiter(1)
        #: The size that the witness is believed to have cosigned last, None before it was first asked.
        self._seen: int | None = None

    def __repr__(self) -> str:
        return f"<WitnessClient {self.key.name} {self.endpoint} seen={self._seen}>"

    @classmethod
    def parse(cls, line: str) -> WitnessClient:
        """Return the client for `"<vkey> <url>"`; raises `Malformed`."""
        words = line.split()
        if len(words) != 2:
            raise Malformed("witness", 'a witness is given as "<vkey> <url>"')
        return cls(VerifierKey.parse(words[0]), words[1])

    async def submit(self, signed: SignedCheckpoint, prove: Prover, *, timeout_s: float) -> Cosignature:
        """Have the witness cosign a checkpoint.

        Args:
            signed: The checkpoint.
            prove: Returns a consistency proof; called in a worker thread.
            timeout_s: Time for each answer, in seconds.

        Raises:
            LogRolledBack: The witness has cosigned a larger one. This is about the log: nothing more must be signed.
            LogForked: Ours does not follow from what it has cosigned. This is about the log, too.
            WitnessRefused: It does not know the log or its key.
            WitnessFailed: Everything else: no answer, an error, a cosignature that does not verify.
        """
        checkpoint = signed.checkpoint
        # The size that it has most likely cosigned: a log that has just been opened asks about what it signed last.
        old_size = checkpoint.size if self._seen is None else min(self._seen, checkpoint.size)
        for _ in range(_MOST_CONFLICTS):
            answer = await self._post(signed, old_size, prove, timeout_s)
            if answer.status == 409:
                old_size = self._conflicting_size(answer, signed)
                continue
            if answer.status == 200:
                cosignature = self._cosignature(answer.body, signed)
                self._seen = checkpoint.size
                return cosignature
            raise self._refusal(answer.status, signed, old_size)
        raise WitnessFailed(f"witness {self.key.name} contradicts itself about the size it has cosigned last")

    async def _post(self, signed: SignedCheckpoint, old_size: int, prove: Prover, timeout_s: float) -> Response:
        def post() -> Response:
            try:
                proof = prove(old_size, signed.checkpoint.size) if 0 < old_size < signed.checkpoint.size else ()
            except (OSError, AuditError) as error:
                raise WitnessFailed(
                    f"witness {self.key.name} has cosigned size {old_size}; no proof from there: {error}"
                ) from error
            lines = [f"old {old_size}\n", *[encode_base64(value) + "\n" for value in proof], "\n"]
            body = "".join(lines).encode() + signed.encode()
            return request(self.endpoint, "add-checkpoint", body=body, timeout_s=timeout_s, max_bytes=_MAX_ANSWER_BYTES)

        try:
            with anyio.fail_after(timeout_s):
                return await to_thread.run_sync(post, limiter=self._threads, abandon_on_cancel=True)
        except TimeoutError:
            raise WitnessFailed(f"witness {self.key.name}: no answer within {timeout_s:g} s") from None
        except SourceFailed as error:
            raise WitnessFailed(f"witness {self.key.name}: {error}") from error

    def _conflicting_size(self, answer: Response, signed: SignedCheckpoint) -> int:
        """Return the size that the witness has cosigned last, from its answer 409."""
        checkpoint, evidence = signed.checkpoint, signed.encode()
        if answer.content_type.partition(";")[0].strip() != _SIZE_TYPE:
            raise WitnessFailed(f"witness {self.key.name} refused (409) without the size that it has cosigned")
        try:
            text = answer.body.decode("ascii").removesuffix("\n")
            size = parse_decimal(text, what="size", maximum=MAX_SIZE)
        except (UnicodeDecodeError, Malformed):
            raise WitnessFailed(f"witness {self.key.name} refused (409) with something that is no size") from None
        if size > checkpoint.size:
            raise LogRolledBack(
                f"witness {self.key.name} has cosigned {checkpoint.origin} at size {size}, and the log submits "
                f"{checkpoint.size}: it came back from an older state, or somebody else signs with its key; sign "
                "nothing more before that is explained",
                evidence=(evidence,),
            )
        self._seen = size
        return size

    def _refusal(self, status: int, signed: SignedCheckpoint, old_size: int) -> TransparencyError:
        checkpoint = signed.checkpoint
        if status == 422:
            return LogForked(
                f"witness {self.key.name} has cosigned another history of {checkpoint.origin} at size {old_size} than "
                f"the one that size {checkpoint.size} follows from; the witness keeps that as evidence; sign no more",
                evidence=(signed.encode(),),
            )
        reason = {
            400: "it finds the request malformed (400)",
            403: "it does not know the key that the checkpoint is signed with (403); ask its operator to add it",
            404: f"it does not know the log {checkpoint.origin} (404); ask its operator to add it",
        }.get(status)
        if reason is not None:
            return WitnessRefused(f"witness {self.key.name}: {reason}")
        return WitnessFailed(f"witness {self.key.name}: it answered with status {status}")

    def _cosignature(self, body: bytes, signed: SignedCheckpoint) -> Cosignature:
        """Return the one line of the answer that is by the witness's key; other keys' lines are ignored."""
        what = f"answer of witness {self.key.name}"
        try:
            lines = body.decode().split("\n")
            if lines.pop() or len(lines) > _MAX_SIGNATURE_LINES:
                raise Malformed(what, "not a few signature lines, each ended by a newline")
            for line in lines:
                signature = Signature.parse(line, what=what)
                if (signature.name, signature.key_id) == (self.key.name, self.key.key_id):
                    timestamp = self.key.verify(signed.note.text, signature)
                    if not timestamp:
                        raise Malformed(what, "a cosignature without a time")
                    return Cosignature(self.key, signature, timestamp)
        except (UnicodeDecodeError, Malformed, InvalidSignature) as error:
            reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
            raise WitnessFailed(f"witness {self.key.name}: {reason}") from None
        raise WitnessFailed(f"witness {self.key.name} answered without a cosignature by {self.key}")


class Witnesses:
    """All the witnesses of a log, asked at once. Used by one task at a time."""

    def __init__(self, clients: Sequence[WitnessClient]) -> None:
        """Ask these; each key once."""
        self._clients: Final = tuple({client.key: client for client in clients}.values())
        self._failures: Final = {client.key: 0 for client in self._clients}
        self._not_before: Final = {client.key: -math.inf for client in self._clients}

    def __len__(self) -> int:
        return len(self._clients)

    async def cosign(
        self, signed: SignedCheckpoint, prove: Prover, *, timeout_s: float
    ) -> tuple[SignedCheckpoint, tuple[WitnessAnswer, ...]]:
        """Return the checkpoint with the cosignatures that were given, and what each witness said.

        A witness has `timeout_s` for each answer. One that failed is asked again if its pause, which doubles with
        each failure, is over before the round is `timeout_s` old, unless it knows the log or its key not at all; one
        that has failed in earlier rounds is left alone until then. Never raises for a witness's sake: look for an
        `InconsistentLog` among the answers, since that one is about the log.
        """
        answers: dict[VerifierKey, WitnessAnswer] = {}

        async def ask(client: WitnessClient) -> None:
            answers[client.key] = await self._ask(client, signed, prove, timeout_s)

        async with anyio.create_task_group() as group:
            for client in self._clients:
                group.start_soon(ask, client)
        ordered = tuple([answers[client.key] for client in self._clients])
        cosignatures = [answer.cosignature.signature for answer in ordered if answer.cosignature is not None]
        note = signed.note.with_signatures(cosignatures)
        return SignedCheckpoint(signed.checkpoint, note), ordered

    async def _ask(
        self, client: WitnessClient, signed: SignedCheckpoint, prove: Prover, timeout_s: float
    ) -> WitnessAnswer:
        key, url = client.key, str(client.endpoint)
        deadline = anyio.current_time() + timeout_s
        error: TransparencyError = WitnessFailed(f"witness {key.name} failed lately, and is asked again a little later")
        while True:
            now = anyio.current_time()
            if max(now, self._not_before[key]) >= deadline:
                return WitnessAnswer(key, url, None, error)
            await anyio.sleep(max(0.0, self._not_before[key] - now))
            try:
                # The whole time, not what is left of the round: an answer that takes longer than a millisecond would
                # count as a failure, and double the pause of a witness that is well.
                cosignature = await client.submit(signed, prove, timeout_s=timeout_s)
            except InconsistentLog as found:
                return WitnessAnswer(key, url, None, found)
            except WitnessFailed as failed:
                error = failed
                self._failures[key] += 1
                self._not_before[key] = anyio.current_time() + _pause_s(self._failures[key])
                if isinstance(failed, WitnessRefused):
                    return WitnessAnswer(key, url, None, failed)
            else:
                self._failures[key] = 0
                return WitnessAnswer(key, url, cosignature, None)


def _pause_s(failures: int) -> float:
    """Return how long to leave a witness alone after so many failures; varied, so that logs don't ask in step."""
    longest: float = min(_FIRST_PAUSE_S * 2 ** min(failures - 1, 16), _LONGEST_PAUSE_S)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
