"""A report as files: the page, the machine-readable report, a signed note over both; and checking them.

The note is a signed note (https://c2sp.org/signed-note), made with the keys that sign the log's checkpoints. It can't
be taken for a checkpoint: the second line of one is a number.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import anyio.to_thread
import msgspec

from audit_async._durable import disk
from audit_async._export.export_file import ExportFailed, new_file
from audit_async._version import __version__
from audit_async.errors import AuditError, ConfigError
from audit_async.events.plain_data import PlainData
from audit_async.logger import AuditLogger
from audit_async.reports.report_document import Report, decode_report, encode_report
from audit_async.reports.report_page import render_page

if TYPE_CHECKING:
    from audit_async.tlog.policy import Policy  # needs an extra
    from audit_async.tlog.signing_keys import Signer

__all__ = ["CheckedReport", "InvalidReport", "WrittenReport", "check_report", "write_report"]

_PAGE: Final = ".html"
_DATA: Final = ".json"
_NOTE: Final = ".note"
_FIRST_LINE: Final = "audit-async report 1"
#: More than any report has: the logs of 10,000 hosts with examples for each control.
_LARGEST: Final = 256 << 20


class InvalidReport(AuditError):
    """The files of a report do not fit together, or are not what was signed."""


class WrittenReport(PlainData, frozen=True, kw_only=True):
    """The files of a report."""

    page: str
    page_sha256: str
    data: str
    data_sha256: str
    note: str | None  #: None if nothing was signed
    signed_by: tuple[str, ...]  #: verifier keys


class CheckedReport(PlainData, frozen=True, kw_only=True):
    """What a check of a report's files has shown."""

    report: Report
    signed_by: tuple[str, ...]  #: verifier keys of those that were trusted and have signed; empty if it is not signed
    #: `same` if the page is what the data make; `not_compared` if another release of this library made it, and then
    #: only a signature binds the page to the data.
    page: Literal["same", "not_compared"]


def _paths(path: Path) -> tuple[Path, Path, Path]:
    """Return the three files of a report, from the path of its page or of its data; raises `ConfigError`."""
    if path.suffix not in {_PAGE, _DATA}:
        raise ConfigError("report", f"{path.name!a} ends neither in {_PAGE} nor in {_DATA}; give a name that does")
    return path.with_suffix(_PAGE), path.with_suffix(_DATA), path.with_suffix(_NOTE)


async def write_report(
    report: Report,
    target: str | os.PathLike[str],
    *,
    audit: AuditLogger,
    accessed_by: str,
    signers: Sequence[Signer] = (),
    overwrite: bool = False,
) -> WrittenReport:
    """Write a report as a page (`.html`), as data (`.json`), and if there are signers a signed note (`.note`).

    That it was made is recorded, durably, before the page gets its name: an `audit.exported` with the format `report`
    and the SHA-256 of the page. Each file is complete and durable when it appears, and readable only for its owner.
    Cancelled or failed, data or note may be there without the page.

    Args:
        report: What `make_report` has returned.
        target: The path of the page, which ends in `.html`; the other files are next to it.
        audit: As for `make_report`.
        accessed_by: As for `make_report`.
        signers: Keys that sign, from `audit_async.tlog.load_signers`.
        overwrite: Replace files that are there.

    Raises:
        ConfigError: `target` has another ending.
        ExportFailed: A file is there already, or its directory is not.
        SigningFailed: A signer fails.
        OSError: A file can't be written.
    """
    page_path, data_path, note_path = _paths(Path(target))
    data = encode_report(report)
    data_digest = sha256(data).hexdigest()
    page = render_page(report, data_digest)
    page_digest = sha256(page).hexdigest()
    await anyio.to_thread.run_sync(_make_room, page_path, data_path, note_path, overwrite)
    note = None
    if signers:
        from audit_async.tlog.signing_keys import signed_note  # noqa: PLC0415 - needs the extra tlog

        note = (await signed_note(_statement(report, page_digest, data_digest), signers)).encode()
    await anyio.to_thread.run_sync(_write, data_path, data, overwrite)
    if note is not None:
        await anyio.to_thread.run_sync(_write, note_path, note, overwrite)
    receipt = audit.record_export(
        accessed_by, format="report", records=report.records, sha256=page_digest, unsealed=report.made.unsealed
    )
    await receipt.durable()
    await anyio.to_thread.run_sync(_write, page_path, page, overwrite)
    return WrittenReport(
        page=str(page_path),
        page_sha256=page_digest,
        data=str(data_path),
        data_sha256=data_digest,
        note=str(note_path) if note is not None else None,
        signed_by=tuple(str(signer.key) for signer in signers),
    )


def _make_room(page: Path, data: Path, note: Path, overwrite: bool) -> None:
    """Remove the page and the note of the report before, which the new data would contradict."""
    for path in (page, note, data):
        if not os.path.lexists(path):
            continue
        if not overwrite:
            raise ExportFailed(f"{path} is there already; choose another name, or overwrite it (--force)")
        if path != data:
            disk.unlink(str(path), dir_fd=None)


def _write(path: Path, content: bytes, overwrite: bool) -> None:
    with new_file(path, overwrite=overwrite) as new:
        new.file.write(content)
        new.finish()


def _statement(report: Report, page_digest: str, data_digest: str) -> str:
    """Return the text that is signed."""
    return (
        f"{_FIRST_LINE}\nhtml sha256 {page_digest}\njson sha256 {data_digest}\n"
        f"framework {report.framework.id}\nmade {report.made.at}\n"
    )


def check_report(path: str | os.PathLike[str], policy: Policy | None = None) -> CheckedReport:
    """Check the files of a report: that page and data say the same, and that they are what was signed. Blocks.

    The trail is not looked at: a new report of the same period, or `AuditReader.verify`, does that.

    Args:
        path: The page or the data; the other files are next to it.
        policy: Whose signatures count; None to check no signature.

    Raises:
        InvalidReport: The files contradict each other or what was signed, one is missing, or with a policy there is
            no note.
        ConfigError: The path has another ending.
        OSError: A file can't be read.
    """
    page_path, data_path, note_path = _paths(Path(path))
    page, data = _read(page_path), _read(data_path)
    try:
        report = decode_report(data)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidReport(f"{data_path} is no report of this library: {error}") from None
    page_digest, data_digest = sha256(page).hexdigest(), sha256(data).hexdigest()
    signed_by: tuple[str, ...] = ()
    if policy is not None:
        signed_by = _signers(note_path, _statement(report, page_digest, data_digest), policy)
    is_same = page == render_page(report, data_digest)
    if not is_same and (report.made.library_version == __version__ or not signed_by):
        made = (
            ""
            if report.made.library_version == __version__
            else f" (made by audit-async {report.made.library_version})"
        )
        raise InvalidReport(
            f"{page_path} does not say what {data_path} says{made}: one of them was changed, or another release of "
            "this library made them; check them with that release, or with a signature"
        )
    return CheckedReport(report=report, signed_by=signed_by, page="same" if is_same else "not_compared")


def _signers(path: Path, statement: str, policy: Policy) -> tuple[str, ...]:
    """Return who has signed the statement; raises `InvalidReport` if nobody who is trusted has, or something else."""
    from audit_async.tlog.failures import InvalidSignature, Malformed  # noqa: PLC0415 - needs the extra tlog
    from audit_async.tlog.notes import parse_note, verify_note  # noqa: PLC0415

    if not path.exists():
        raise InvalidReport(f"{path} is missing, so this report is not signed")
    try:
        note = parse_note(_read(path), what="report's note")
        verified = verify_note(note, [log.key for log in policy.logs])
    except (InvalidSignature, Malformed) as error:
        raise InvalidReport(f"{path}: {error}") from None
    if note.text != statement:
        raise InvalidReport(f"{path} is of other files: what was signed are not this page and these data")
    return tuple(str(signature.key) for signature in verified)


def _read(path: Path) -> bytes:
    if not path.exists():
        raise InvalidReport(f"{path} is missing; the files of a report belong next to each other")
    with path.open("rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise InvalidReport(f"{path} has more than {_LARGEST:,} bytes, which no report has")
    return content
