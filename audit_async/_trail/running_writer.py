"""Whether a process is writing a log, found out without touching its lock.

Trying the lock would, for an instant, keep a writer from taking it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from audit_async._layout.lock_file import HEAD_AT, pid_in
from audit_async._layout.names import LOCK_FILE
from audit_async._layout.regular_files import NO_DESCRIPTORS
from audit_async._trail.log_files import Log, open_regular
from audit_async.errors import LogCorrupted

_LOCKS: Final = Path("/proc/locks")


def writer_of(log: Log) -> int | None:
    """Return the pid of the process that holds the log's lock; None if no process that can be seen from here does.

    On Linux this is what the kernel says, for the processes of this pid namespace. Elsewhere it is the pid in the
    lock file, as long as there is such a process. Raises `OSError` if this process has no file descriptor left.
    """
    try:
        status = os.stat(log.directory / LOCK_FILE, follow_symlinks=False)
        with open_regular(log.directory / LOCK_FILE) as file:
            pid = pid_in(file.read(HEAD_AT))
    except LogCorrupted:
        return None
    except OSError as error:
        if error.errno in NO_DESCRIPTORS:  # or a log would be called free of which nothing is known
            raise
        return None
    try:
        held = _LOCKS.read_text(encoding="ascii")
    except OSError as error:
        if error.errno in NO_DESCRIPTORS:
            raise
        return pid if pid is not None and _is_alive(pid) else None
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    for line in held.splitlines():
        # 1: FLOCK  ADVISORY  WRITE 4711 fd:01:131075 0 EOF
        fields = line.split()
        if len(fields) < 6 or fields[1] != "FLOCK" or not fields[4].isdigit():
            continue
        holder = int(fields[4])
        # On some file systems the device that is shown here is not the one that stat shows.
        if fields[5] == f"{device}:{status.st_ino}" or (fields[5].endswith(f":{status.st_ino}") and holder == pid):
            return holder
    return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
