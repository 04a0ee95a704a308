"""A witness for tests, as tlog-witness describes it, that can also be told to misbehave."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import NamedTuple

from audit_async.tlog.checkpoint import Checkpoint, verify_checkpoint
from audit_async.tlog.failures import InvalidProof, InvalidSignature
from audit_async.tlog.merkle import verify_consistency
from audit_async.tlog.notes import VerifierKey
from tests.tlog.trees import Cosigner


class Answer(NamedTuple):
    """What a witness sends back."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain"


class Witness:
    """One witness, and everything that it was asked."""

    def __init__(self, cosigner: Cosigner, log: VerifierKey) -> None:
        self.cosigner = cosigner
        self.log = log
        self.url = ""
        self.cosigned: Checkpoint | None = None
        self.requests: list[bytes] = []
        #: Called before the honest answer; what it returns is sent instead.
        self.instead: Callable[[bytes], Answer | None] = lambda _: None
        self.release = Event()  #: set at the end, so that an answer that hangs is let go

    @property
    def line(self) -> str:
        """How a configuration names it."""
        return f"{self.cosigner.key} {self.url}"

    def answer(self, body: bytes) -> Answer:
        """Answer add-checkpoint."""
        self.requests.append(body)
        return self.instead(body) or self.honest(body)

    def hang(self, _: bytes) -> Answer:
        """Answer nothing before the test ends."""
        self.release.wait()
        return Answer(500)

    def honest(self, body: bytes) -> Answer:
        """Answer as the specification demands."""
        head, _, content = body.partition(b"\n\n")
        first, *lines = head.decode().split("\n")
        old_size = int(first.removeprefix("old "))
        proof = [b64decode(line) for line in lines]
        try:
            checkpoint = verify_checkpoint(content, [self.log]).checkpoint
        except InvalidSignature as error:
            return Answer(404 if "was expected" in str(error) else 403)
        if old_size > checkpoint.size:
            return Answer(400)
        last = self.cosigned
        if old_size != (last.size if last else 0):
            return Answer(409, f"{last.size if last else 0}\n".encode(), "text/x.tlog.size")
        if last is not None:
            try:
                verify_consistency(last.size, checkpoint.size, last.root, checkpoint.root, proof)
            except InvalidProof:
                return Answer(422)
        elif proof:
            return Answer(422)
        self.cosigned = checkpoint
        return Answer(200, self.cosigner.cosign(checkpoint.text()).line().encode())


@contextmanager
def serving(witness: Witness) -> Iterator[Witness]:
    """Run a witness on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/prefix/add-checkpoint"
            answer = witness.answer(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    witness.url = f"http://127.0.0.1:{server.server_address[1]}/prefix/"
    try:
        yield witness
    finally:
        witness.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
