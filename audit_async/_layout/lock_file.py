"""The content of a log's `lock`: who writes the log, and up to which record it is acknowledged.

    1234<spaces>                                              the writer's pid, for people; 32 bytes with the line feed
    acknowledged 000000000041 <hash, 64 hex digits> <crc32>   the last record that is on stable storage

Earlier releases write the pid alone. The second line is replaced in place and never synced: after a power cut it may be
an older one, and it never names a record that was not durable when it was written. Its checksum shows a reading that
fell between two writes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from zlib import crc32

from audit_async._chain import Head
from audit_async._layout.names import LOCK_FILE
from audit_async._layout.regular_files import open_regular

#: Where the second line begins.
HEAD_AT: Final = 32
_HEAD_LINE: Final = re.compile(rb"(acknowledged ([0-9]{12,20}) ([0-9a-f]{64}) )([0-9a-f]{8})\n")
_MOST_BYTES: Final = 256
#: A reading that falls between two writes is repeated; what is damaged stays damaged.
_TRIES: Final = 3


def pid_line(pid: int) -> bytes:
    """Return the first line."""
    return (b"%d" % pid).ljust(HEAD_AT - 1) + b"\n"


def pid_in(content: bytes) -> int | None:
    """Return the pid that the file names; None if there is none."""
    named = content[:HEAD_AT].strip()
    return int(named) if named.isdigit() else None


def head_line(head: Head) -> bytes:
    """Return the second line; an empty one before the first record."""
    if head.seq < 0:
        return b"\n"
    text = b"acknowledged %012d %s " % head
    return text + b"%08x\n" % crc32(text)


def read_acknowledged(directory: Path) -> Head | None:
    """Return the last record that the writer of a log has acknowledged; None if the file does not say it.

    Raises:
        OSError: The file can't be read.
        LogCorrupted: Something other than a regular file has its name.
    """
    try:
        fd = open_regular(directory / LOCK_FILE)
    except FileNotFoundError:
        return None
    with open(fd, "rb", buffering=0) as file:
        for _ in range(_TRIES):
            file.seek(HEAD_AT)
            match = _HEAD_LINE.match(file.read(_MOST_BYTES))
            if match is not None and crc32(match[1]) == int(match[4], 16):
                return Head(int(match[2]), match[3])
    return None
