"""The current search as a file, and the proof of one record: recorded before the first byte, and in bounded memory."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, BinaryIO, Final, Literal, NamedTuple, cast

import anyio
import anyio.from_thread
import anyio.to_thread
import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from audit_async._query.audit_query import AuditQuery
from audit_async.viewer.pages.asked import asked_query
from audit_async.viewer.people import NotPermitted
from audit_async.viewer.scoped_reader import Export, ScopedReader
from audit_async.viewer.viewing import viewing_of

if TYPE_CHECKING:
    from audit_async.tlog.proof import TlogProof  # needs an extra

__all__ = ["download_routes"]


class _Format(NamedTuple):
    """A kind of file."""

    name: Literal["ndjson", "csv", "parquet", "bundle"]
    media_type: str
    ending: str


_FORMATS: Final = {
    "ndjson": _Format("ndjson", "application/x-ndjson", "ndjson"),
    "csv": _Format("csv", "text/csv; charset=utf-8", "csv"),
    "parquet": _Format("parquet", "application/vnd.apache.parquet", "parquet"),
    "bundle": _Format("bundle", "application/zip", "zip"),
}
_FILE_CHUNK: Final = 256 << 10
#: Whether its reader is still let in is asked so often while a file is sent.
_ASKED_EACH_S: Final = 1.0


def download_routes() -> list[Route]:
    """Return the routes; before those of pages, since a log's page has any path below `/logs/`."""
    return [
        Route("/download/{format}", _download, name="download"),
        Route("/logs/{log:path}/records/{seq:int}/proof", _proof, name="proof"),
    ]


async def _download(request: Request) -> Response:
    """Return what is asked for as a file, the oldest record first."""
    known = _FORMATS.get(request.path_params["format"])
    if known is None:
        raise HTTPException(404, f"There are {', '.join(_FORMATS)}.")
    asked = asked_query(request.query_params)
    reader = viewing_of(request).reader.only(service=asked.service, log=asked.log)
    query = msgspec.structs.replace(asked.query, newest_first=False, limit=None)
    return _Download(reader, query, viewing_of(request).is_still_let_in, known)


class _Download(Response):
    """An export that is sent while it is made.

    If it fails, or its reader may see nothing any more, the connection ends without the end of the file.
    """

    def __init__(
        self,
        reader: ScopedReader,
        query: AuditQuery,
        is_still_let_in: Callable[[], Awaitable[bool]],
        kind: _Format,
    ) -> None:
        file_name = f"audit-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.{kind.ending}"
        headers = {"Content-Disposition": f'attachment; filename="{file_name}"'}
        super().__init__(status_code=200, headers=headers, media_type=kind.media_type)
        del self.headers["content-length"]  # it is known at the end
        self._reader: Final = reader
        self._query: Final = query
        self._is_still_let_in: Final = is_still_let_in
        self._format: Final = kind.name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file. Nobody is asked to start, and nothing is sent, before it is recorded that it is asked for."""
        body = _Body(Request(scope, receive), send, self.raw_headers, self._is_still_let_in)
        with suppress(BrokenPipeError):  # the browser has gone, which ends the export
            async with self._reader.exporting(self._format, self._query) as export:
                if self._format == "bundle":
                    await self._send_file(export, body)
                else:
                    await export(cast("BinaryIO", body))
            await body.end()  # after the whole of it is recorded

    async def _send_file(self, export: Export, body: _Body) -> None:
        """Make the file first: a bundle is whole or not there."""
        with tempfile.TemporaryDirectory(prefix="audit-view-") as directory:
            path = Path(directory) / "bundle.zip"
            await export(path)
            async with await anyio.open_file(path, "rb") as file:
                while chunk := await file.read(_FILE_CHUNK):
                    await body.send(chunk)


class _Body(io.RawIOBase):
    """What a worker thread writes to and a browser reads, no faster than it does."""

    def __init__(
        self,
        request: Request,
        send: Send,
        headers: list[tuple[bytes, bytes]],
        is_still_let_in: Callable[[], Awaitable[bool]],
    ) -> None:
        self._request: Final = request
        self._send: Final = send
        self._headers: Final = headers
        self._is_still_let_in: Final = is_still_let_in
        self._asked_s = monotonic()  # when it was asked for the last time
        self._has_begun = False

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | memoryview, /) -> int:  # type: ignore[override]  # what an export writes
        """Send data; blocks a worker thread until it is taken."""
        content = bytes(data)
        if content:
            anyio.from_thread.run(self.send, content)
        return len(content)

    async def send(self, content: bytes) -> None:
        """Send data.

        Raises:
            BrokenPipeError: The browser is gone.
            NotPermitted: Its person may see nothing any more.
        """
        if await self._request.is_disconnected():
            raise BrokenPipeError("the browser has gone")
        if monotonic() - self._asked_s > _ASKED_EACH_S:
            if not await self._is_still_let_in():
                raise NotPermitted("the download was ended, since whoever asked for it is signed out")
            self._asked_s = monotonic()
        await self._begin()
        await self._send({"type": "http.response.body", "body": content, "more_body": True})

    async def end(self) -> None:
        """Say that the file is whole."""
        await self._begin()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})


async def _proof(request: Request) -> Response:
    """Return a record and its inclusion proof, as `audit-async prove` writes them, in a zip."""
    log, seq = request.path_params["log"], request.path_params["seq"]
    line, proof, audit_id = await _proven(viewing_of(request).reader, log, seq)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{audit_id}.json", line)
        archive.writestr(f"{audit_id}.tlog-proof", proof.encode())
    headers = {"Content-Disposition": f'attachment; filename="{audit_id}.zip"'}
    return Response(content.getvalue(), 200, headers, "application/zip")


async def _proven(reader: ScopedReader, log: str, seq: int) -> tuple[bytes, TlogProof, str]:
    from audit_async._export.record_proof import proof_of  # noqa: PLC0415 - needs an extra
    from audit_async._verify.signed_trail import TREE_DIRECTORY, published_at  # noqa: PLC0415 - the same

    placed = (await reader.record(seq, log=log, proof=True)).placed
    directory = await anyio.to_thread.run_sync(reader.directory_of, log)
    source = published_at(directory / TREE_DIRECTORY)
    proof, _ = await anyio.to_thread.run_sync(proof_of, placed, source)
    return placed.line, proof, placed.record.audit_id
