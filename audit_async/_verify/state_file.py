"""The file in which a verification keeps what it has verified, for the one after it.

It is as trustworthy as the place where it is kept: with it a log is found that was cut off or replaced since. So it is
refused in the trail itself, and in a place where other users can write. A signature on it would add nothing: whoever
can replace the file puts back an older one of ours, together with the older log that it fits.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

from audit_async._durable import disk
from audit_async._durable.lock_waits import one_at_a_time
from audit_async._durable.whole_files import remove_left_over, replace_shared_file
from audit_async._layout.access_modes import why_insecure
from audit_async._layout.regular_files import open_regular
from audit_async._trail.log_files import Log
from audit_async._verify.verified_before import Verified, VerifiedLog
from audit_async._verify.verify_report import VerifyReport
from audit_async.errors import ConfigError, LogCorrupted

#: What the file's content is; a later release that changes what it means takes the next number.
_KIND: Final = "audit-async verification state"
_VERSION: Final = 1
#: 10,000 logs of 20,000 segments in all take some 20 MB.
_MOST_BYTES: Final = 1 << 30
#: How long another verification is waited for that writes its own; one that was stopped is passed by then.
_WAIT_S: Final = 10.0


class _Content(msgspec.Struct):
    kind: str
    version: int
    sha256: str = ""  #: of `logs`, as damage to a file has other causes than people
    logs: msgspec.Raw = msgspec.Raw(b"{}")


class StateFile:
    """One such file; what blocks is called in a worker thread."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Final = Path(os.path.abspath(path))

    def __repr__(self) -> str:
        return f"<StateFile {self.path}>"

    def refuse_in(self, directories: Iterable[Path]) -> None:
        """Raise `ConfigError` if the file is in one of these directories: those of the trail."""
        here = Path(os.path.realpath(self.path.parent))
        for directory in directories:
            if here.is_relative_to(os.path.realpath(directory)):
                raise ConfigError(
                    "state",
                    f"{self.path} is in the trail that it is to be held to: whoever changes the one changes the other. "
                    "Keep it where those who can write to the trail can't, such as on the machine that verifies",
                )

    def read(self) -> dict[str, VerifiedLog]:
        """Return what was verified, by the log's name; nothing if there is no file yet.

        Raises:
            ConfigError: Others can write to the file or its directory, or it can't be read or understood.
        """
        try:
            self._refuse_unless_safe(self.path.parent, os.stat(self.path.parent))
            fd = open_regular(self.path)
            try:
                status = os.fstat(fd)
                self._refuse_unless_safe(self.path, status)
                size = status.st_size
                if size > _MOST_BYTES:
                    raise ConfigError("state", f"{self.path} has {size} bytes, and no such file has so many")
                content = disk.read_at(fd, size, 0)
            finally:
                disk.close(fd)
        except FileNotFoundError as error:
            if not self.path.parent.exists():
                raise ConfigError("state", f"{self.path.parent} is not there; make it first") from error
            return {}
        except LogCorrupted as error:
            raise ConfigError("state", f"{self.path}: {error.reason}") from error
        except OSError as error:
            raise ConfigError("state", f"{self.path} can't be read: {error.strerror}") from error
        return self._decode(content)

    def _decode(self, content: bytes) -> dict[str, VerifiedLog]:
        damaged = ConfigError(
            "state",
            f"{self.path} is not what the library writes, so nothing can be said of what was verified before. Put back "
            "a copy of it, or move it away: the next one then reads everything, and holds the trail to nothing",
        )
        try:
            file = msgspec.json.decode(content, type=_Content)
            if file.kind != _KIND:
                raise damaged
            if file.version > _VERSION:
                raise ConfigError(
                    "state",
                    f"{self.path} was written by a later release (version {file.version}, and this one reads "
                    f"{_VERSION}); verify with that release, or with a state of your own",
                )
            if sha256(file.logs).hexdigest() != file.sha256:
                raise damaged
            return msgspec.json.decode(file.logs, type=dict[str, VerifiedLog])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise damaged from error

    def write(self, logs: dict[str, VerifiedLog]) -> None:
        """Replace the file, durably and whole or not at all; it is its owner's alone.

        Raises:
            ConfigError: It can't be written.
        """
        raw = msgspec.json.encode(logs, order="deterministic")
        digest = sha256(raw).hexdigest()
        content = msgspec.json.encode(_Content(_KIND, _VERSION, digest, msgspec.Raw(raw))) + b"\n"
        try:
            directory = disk.open_directory(str(self.path.parent), follow=True)
            try:
                replace_shared_file(directory, self.path.name, content)
                remove_left_over(directory, self.path.name)
            finally:
                disk.close(directory)
        except OSError as error:
            raise ConfigError("state", f"{self.path} can't be written: {error.strerror}") from error

    @contextmanager
    def changed_alone(self) -> Iterator[None]:
        """Run a block that reads the file and writes it, without another one in between; raises `ConfigError`."""
        try:
            directory = disk.open_directory(str(self.path.parent), follow=True)
        except OSError as error:
            raise ConfigError("state", f"{self.path} can't be written: {error.strerror}") from error
        try:
            with one_at_a_time(directory, _WAIT_S):
                yield
        finally:
            disk.close(directory)

    def _refuse_unless_safe(self, path: Path, status: os.stat_result) -> None:
        if (why := why_insecure(path, status)) is not None:
            raise ConfigError("state", f"{path}: {why}")


class KeptState:
    """What a state file has for the logs of one reader."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        logs: Sequence[Log],
        *,
        base_dir: Path,
        service: str | None = None,
        instance: str | None = None,
        host: str | None = None,
    ) -> None:
        """Read nothing yet; the others say which logs were looked for, and `logs` which were found."""
        self._file: Final = StateFile(path)
        self._logs: Final = logs
        self._base_dir: Final = Path(os.path.abspath(base_dir))
        self._service: Final = service
        self._instance: Final = instance
        self._host: Final = host
        self._before: dict[str, VerifiedLog] = {}

    def read(self, full: bool, full_every: timedelta) -> Verified:
        """Return what was verified of the logs that were looked for; raises `ConfigError` as `StateFile.read` does."""
        roots = {self._base_dir}
        for log in self._logs:
            parent = log.directory.parent
            roots |= {log.directory, parent.parent if parent.name == log.service_id else parent}
        self._file.refuse_in(roots)
        self._before = self._file.read()
        wanted = {name: known for name, known in self._before.items() if self._is_wanted(name)}
        return Verified(wanted, full=full, full_every=full_every)

    def _is_wanted(self, name: str) -> bool:
        """Return whether a log, if it were there, would be among those that were looked for."""
        *place, service, instance = name.split("/")
        # At a collector the directory is named after the slot and the log_id.
        slots = {instance, instance.partition(".")[0]} if place else {instance}
        if self._service not in {None, service} or (self._instance is not None and self._instance not in slots):
            return False
        if place and self._host not in {None, place[-1]}:
            return False
        if any(log.directory == self._base_dir for log in self._logs):
            return any(log.name == name for log in self._logs)
        if all(log.directory.parent == self._base_dir for log in self._logs):
            return any(log.service_id == service for log in self._logs)
        return True

    def write(self, verified: Verified, report: VerifyReport) -> None:
        """Keep what was verified of each log in which nothing was found; raises `ConfigError`.

        What another verification has kept since `read` stays: of other logs, and of the same one if it got further.
        """
        doubtful = {piece.log for piece in report.unreadable} | {log.log for log in report.logs if log.findings}
        new = {log.log: verified.logs[log.log] for log in report.logs if log.log in verified.logs}
        with self._file.changed_alone():
            there = self._file.read()
            logs = there | {
                name: known
                for name, known in new.items()
                if name not in doubtful and _is_newer(known, there.get(name), self._before.get(name))
            }
            if logs != there:
                self._file.write(logs)


def _is_newer(new: VerifiedLog, there: VerifiedLog | None, before: VerifiedLog | None) -> bool:
    """Return whether `new` goes on from what is there, or is of the same log and at least as far."""
    if there is None or there == before:
        return True
    return new.log_id == there.log_id and new.head.seq >= there.head.seq
