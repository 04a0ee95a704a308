"""What the collectors whose keys are known say of a log: compared with it, and kept next to it for retention."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import anyio.to_thread

from audit_async._durable import disk
from audit_async._durable.whole_files import replace_shared_file
from audit_async._layout.confirmed_file import Confirmed, encode_confirmed, read_confirmed
from audit_async._layout.names import CONFIRMED_FILE
from audit_async.errors import LogCorrupted
from audit_async.forwarding.batches import Head
from audit_async.forwarding.confirmations import (
    Confirmation,
    ConfirmationExpired,
    ConfirmationInvalid,
    check_confirmations,
)
from audit_async.forwarding.identities import LogIdentity
from audit_async.forwarding.log_tail import LogDiffers, LogTail, RecordsUnreadable
from audit_async.forwarding.sink import Sink

__all__ = ["TrustedCollectors"]

_logger: Final = logging.getLogger("audit_async")

#: Who may enter the log's directory may read what is confirmed.
_READABLE: Final = 0o644


class TrustedCollectors:
    """The collectors of one log that are trusted; for one task at a time.

    Args:
        directory: The log's directory.
        log: What the log is called outside of the host.
        sink: The engine, which hands on what they have signed.
        keys: Their verifier keys; without any, nothing is asked for.
    """

    def __init__(self, directory: Path, log: LogIdentity, sink: Sink, keys: Sequence[str]) -> None:
        self._directory: Final = directory
        self._log: Final = log
        self._sink: Final = sink
        self._keys: Final = tuple(keys)
        self._problem: str | None = None  # what was logged last
        self._complained = False

    async def ask(self) -> tuple[Head | None, str | None]:
        """Return the newest record that one of them has confirmed, and why another confirmation does not hold.

        Raises:
            LogDiffers: The log does not have a record that one of them has confirmed.
            SinkUnavailable, SinkRefused: As the engine does.
        """
        if not self._keys:
            return None, None
        stored = await self._sink.confirmation(self._log)
        confirmations, problem = ((), None) if stored is None else self._checked(stored)
        found = [one for one in confirmations if await anyio.to_thread.run_sync(self._has, one)]
        await anyio.to_thread.run_sync(self._keep, found)
        newest = Head(seq=confirmations[0].seq, hash=confirmations[0].hash) if confirmations else None
        return newest, problem

    def _checked(self, stored: bytes) -> tuple[Sequence[Confirmation], str | None]:
        """Return the confirmations that hold, or why none does."""
        try:
            return check_confirmations(stored, self._keys, log_id=self._log.log_id), None
        except (ConfirmationInvalid, ConfirmationExpired) as error:
            if self._problem != str(error):
                _logger.warning("%s: %s", self._log, error)
            self._problem = str(error)
            return (), str(error)

    def _has(self, confirmation: Confirmation) -> bool:
        """Return whether the log has what a collector has confirmed; False if that was deleted here since.

        Raises:
            LogDiffers: The log does not have it.
        """
        tail = LogTail(self._directory)
        try:
            tail.seek(Head(seq=confirmation.seq, hash=confirmation.hash))
        except LogDiffers as error:
            raise LogDiffers(error.kind, f"{error}; collector {confirmation.collector} has confirmed it") from None
        except RecordsUnreadable as error:  # deleted here by now: nothing to compare with
            _logger.info("%s: %s", self._log, error)
            return False
        else:
            return True
        finally:
            tail.close()

    def _keep(self, confirmations: Sequence[Confirmation]) -> None:
        """Write what retention on this host waits for next to the log, if it is not what is there."""
        copies = tuple(place for one in confirmations for place in one.places())
        confirmed = Confirmed(log_id=self._log.log_id, confirmed=copies)
        try:
            try:
                before = read_confirmed(self._directory)
            except LogCorrupted:
                before = None
            if before == confirmed or (before is None and not copies):
                return
            directory = disk.open_directory(str(self._directory))
            try:
                replace_shared_file(
                    directory,
                    CONFIRMED_FILE,
                    encode_confirmed(confirmed),
                    # The service may run as another user than the forwarder.
                    prepare=lambda fd: disk.change_mode(fd, _READABLE),
                    durable=False,
                )
            finally:
                disk.close(directory)
        except OSError as error:  # a forwarder that may only read; retention with hold_unshipped then keeps everything
            if not self._complained:
                _logger.warning("%s: what collectors have confirmed can't be kept for retention: %s", self._log, error)
            self._complained = True
