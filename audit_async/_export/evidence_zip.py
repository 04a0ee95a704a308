"""The zip that evidence is written to: the same content is the same file, and a list of checksums covers all of it."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import IO, Final

from audit_async._trail.log_files import Log

__all__ = ["CHECKSUMS", "README", "EvidenceZip", "log_folders"]

CHECKSUMS: Final = "MANIFEST.sha256"
README: Final = "README.txt"
#: A path in the zip is a log's name if that is one that the library makes.
_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)


def log_folders(logs: Sequence[Log]) -> dict[Log, str]:
    """Return each log's folder in the zip: its name, if that is a plain one and no other log's."""
    folders: dict[Log, str] = {}
    taken: set[str] = set()
    for number, log in enumerate(logs):
        is_plain = _PLAIN.fullmatch(log.name) is not None and log.name not in taken
        folders[log] = log.name if is_plain else f"log-{number}"
        taken.add(folders[log])
    return folders


class EvidenceZip:
    """The zip that is being written: every entry with the same time and mode, and its SHA-256 kept."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._digests: dict[str, str] = {}

    @contextmanager
    def begin(self, name: str) -> Iterator[Callable[[bytes], None]]:
        """Yield a function that writes to a new entry."""
        entry = zipfile.ZipInfo(name)  # of 1 January 1980, so that the same content is the same zip
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry.create_system = 3
        entry.external_attr = 0o100600 << 16
        digest = sha256()
        with self._archive.open(entry, "w", force_zip64=True) as file:
            yield lambda data: _write_both(file, digest.update, data)
        self._digests[name] = digest.hexdigest()

    def add(self, name: str, content: bytes) -> None:
        """Write a whole entry."""
        with self.begin(name) as write:
            write(content)

    def add_checksums(self) -> None:
        """Write the SHA-256 of every entry so far, as `sha256sum` does; the last entry."""
        lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(self._digests.items()))
        self.add(CHECKSUMS, lines.encode())


def _write_both(file: IO[bytes], update: Callable[[bytes], None], data: bytes) -> None:
    file.write(data)
    update(data)
