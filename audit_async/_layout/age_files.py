"""Files encrypted with age: writing them to recipients, and reading them with identities, in bounded memory.

The format is that of https://age-encryption.org/v1, and the code that of rage, by way of pyrage (the extra `age`), so
the program `age` reads what is written here. Nothing in here knows what a segment is.

age says who can read a file, not who wrote it: anybody can encrypt to a public key. What binds an archive to its log is
the SHA-256 of the segment, in the manifest and in the chain.
"""

from __future__ import annotations

import errno
import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import Condition, Thread
from typing import Any, BinaryIO, Final, Self

from audit_async.config.archive_recipients import import_pyrage, parse_recipients
from audit_async.errors import AuditError, ConfigError

#: Pieces of 64 KiB that wait between the thread that decrypts and the reader.
_MOST_PIECES: Final = 16
#: No identity file is larger.
_MOST_IDENTITY_BYTES: Final = 1 << 20
_NO_MATCH: Final = "No matching keys found"
_MISSING: Final = 'reading encrypted archives needs pyrage; install the extra "age": pip install "audit-async[age]"'


class ArchiveEncrypted(OSError):
    """An archive is encrypted, and no identity that opens it was given; `strerror` says which of the two."""

    def __init__(self, reason: str, filename: str) -> None:
        super().__init__(errno.EACCES, reason, filename)


class EncryptionFailed(AuditError):
    """A file could not be encrypted; nothing was changed."""


class Identities:
    """The private keys that encrypted archives are opened with. No representation of it shows any of them.

    One object serves any number of readers and threads.
    """

    __slots__ = ("_keys", "_texts")

    def __init__(self, texts: Iterable[str]) -> None:
        """Take keys as text.

        Args:
            texts: Each an age identity (`AGE-SECRET-KEY-1...`) or an unencrypted SSH private key in its own format.

        Raises:
            ConfigError: One is no identity, there is none, or pyrage is not installed; no message holds a key.
        """
        self._texts: Final = tuple(texts)
        try:
            pyrage = import_pyrage()
        except ImportError as error:
            raise ConfigError("identities", _MISSING) from error
        if not self._texts:
            raise ConfigError("identities", "there is none; give at least one")
        self._keys: Final = [_identity(pyrage, text, number) for number, text in enumerate(self._texts, 1)]

    @classmethod
    def from_files(cls, *paths: str | os.PathLike[str]) -> Self:
        """Read identity files, as `age-keygen` writes them, or unencrypted SSH private keys.

        Args:
            paths: The files.

        Raises:
            ConfigError: A file can't be read, holds no identity, or is protected by a passphrase.
        """
        return cls([text for path in paths for text in _texts_in(Path(path))])

    @property
    def texts(self) -> tuple[str, ...]:
        """The keys as text: secret, for another process that reads for this one."""
        return self._texts

    @property
    def keys(self) -> list[Any]:
        """The keys as pyrage takes them."""
        return self._keys

    def __repr__(self) -> str:
        return f"<Identities {len(self._texts)}>"


def _texts_in(path: Path) -> list[str]:
    field = f"identities: {path}"
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_IDENTITY_BYTES)
    except OSError as error:
        raise ConfigError(field, f"can't be read: {error.strerror}") from error
    if content.startswith((b"age-encryption.org/", b"-----BEGIN AGE ENCRYPTED FILE")):
        raise ConfigError(field, "it is protected by a passphrase; decrypt it first, with `age -d`")
    text = content.decode("utf-8", "replace")
    if text.startswith("-----BEGIN"):
        return [text]
    found = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not found or not all(line.upper().startswith("AGE-SECRET-KEY-1") for line in found):
        raise ConfigError(
            field, "it is no identity file: each line is AGE-SECRET-KEY-1... or a comment, as age-keygen writes it"
        )
    return found


def _identity(pyrage: Any, text: str, number: int) -> Any:  # noqa: ANN401 - pyrage has no types
    try:
        if text.startswith("-----BEGIN"):
            return pyrage.ssh.Identity.from_buffer(text.encode())
        return pyrage.x25519.Identity.from_str(text)
    except pyrage.IdentityError:
        pass  # whose text may repeat the key
    raise ConfigError("identities", f"number {number} is no age identity and no unencrypted SSH private key")


# -- encrypting ---------------------------------------------------------------------------------------------------


def encrypt(pieces: Iterator[bytes], write: Callable[[bytes], None], recipients: tuple[str, ...]) -> None:
    """Encrypt what `pieces` yields to recipients; `write` gets the file, some 64 KiB at a time.

    Raises what `pieces` and `write` raise, `ConfigError` for recipients that are none, and `EncryptionFailed`.
    """
    keys = parse_recipients(recipients)
    pyrage = import_pyrage()
    source, target = _Source(pieces), _Target(write)
    refused: BaseException | None = None
    try:
        pyrage.encrypt_io(source, target, keys)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - whatever it makes of what was raised in here, a panic among it
        refused = error
    # Asked also if it returns: what is raised while it writes the last of a file, it drops.
    if (cause := source.error or target.error) is not None:
        raise cause
    if refused is not None:
        raise EncryptionFailed(f"age refused: {refused}") from refused


class _Source:
    """What pyrage reads: a file made of pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.error: BaseException | None = None
        self._pieces = pieces
        self._left = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes, none at the end."""
        try:
            while not self._left:
                piece = next(self._pieces, None)
                if piece is None:
                    return b""
                self._left = memoryview(piece)
        except BaseException as error:
            self.error = error
            raise
        taken, self._left = self._left[:size], self._left[size:]
        return bytes(taken)


class _Target:
    """What pyrage writes to."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self.error: BaseException | None = None
        self._write = write

    def write(self, data: bytes) -> int:
        """Write all of it."""
        try:
            self._write(data)
        except BaseException as error:
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        """Nothing is kept here."""


# -- decrypting ---------------------------------------------------------------------------------------------------


def open_encrypted(file: BinaryIO, identities: Identities | None, path: str) -> BinaryIO:
    """Return the content of the age file at `path`, to be read once from its beginning; it closes `file` with itself.

    A thread decrypts ahead of the reader, a mebibyte at most. Reading raises `EOFError` if the file is damaged; what
    was read before is what was encrypted all the same, since age checks each 64 KiB.

    Raises `ArchiveEncrypted` if none of the identities opens it, `EOFError` if it is damaged at its beginning.
    """
    if identities is None:
        file.close()
        raise ArchiveEncrypted(
            "it is encrypted; give an identity (a private key) that opens it, with --identity or identities=", path
        )
    plain = _Decrypted(file, identities, path)
    try:
        plain.wait_for_beginning()
    except BaseException:
        plain.close()
        raise
    return io.BufferedReader(plain)


class _Decrypted(io.RawIOBase):
    """The plain content, as a thread decrypts it; closing it ends the thread."""

    def __init__(self, file: BinaryIO, identities: Identities, path: str) -> None:
        self._file = file
        self._path = path
        self._pieces = _Pieces()
        self._left = memoryview(b"")
        # It holds the pieces and not this object, which so is closed if its reader forgets it.
        work = (file, self._pieces, identities)
        self._thread = Thread(target=_decrypt, args=work, name="audit-async age", daemon=True)
        self._thread.start()

    def readable(self) -> bool:
        return True

    def wait_for_beginning(self) -> None:
        """Return when something was decrypted; raises what reading would."""
        self._left = memoryview(self._next())

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what BufferedReader hands over
        if not self._left:
            self._left = memoryview(self._next())
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size

    def _next(self) -> bytes:
        piece = self._pieces.take()
        if piece is not None:
            return piece
        error = self._pieces.error
        if error is None:
            return b""
        if isinstance(error, OSError):
            raise error
        if str(error) == _NO_MATCH:
            raise ArchiveEncrypted("it is encrypted, and none of the identities that were given opens it", self._path)
        raise EOFError(f"the archive can't be decrypted: {error}") from error

    def close(self) -> None:
        if not self.closed:
            self._pieces.close()
            self._thread.join()
            self._file.close()
        super().close()


class _Pieces:
    """What is decrypted and not read yet: the thread waits if it is too far ahead, and the reader if it is not."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._changed = Condition()
        self._pieces: deque[bytes] = deque()
        self._is_whole = self._is_closed = False

    def write(self, data: bytes) -> int:
        """Add a piece; called by pyrage. Raises `BrokenPipeError` if nobody reads any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or len(self._pieces) < _MOST_PIECES)
            if self._is_closed:
                raise BrokenPipeError(errno.EPIPE, "the reader has closed the file")
            self._pieces.append(bytes(data))
            self._changed.notify_all()
        return len(data)

    def flush(self) -> None:
        """Nothing is kept from the reader."""

    def end(self, error: BaseException | None) -> None:
        """Say that nothing more comes, and why."""
        with self._changed:
            self.error = error
            self._is_whole = True
            self._changed.notify_all()

    def take(self) -> bytes | None:
        """Return the next piece, None after the last one."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_whole or bool(self._pieces))
            if not self._pieces:
                return None
            piece = self._pieces.popleft()
            self._changed.notify_all()
            return piece

    def close(self) -> None:
        """Have the thread end."""
        with self._changed:
            self._is_closed = True
            self._pieces.clear()
            self._changed.notify_all()


def _decrypt(file: BinaryIO, pieces: _Pieces, identities: Identities) -> None:
    error: BaseException | None = None
    source = _Source(iter(lambda: file.read(1 << 16), b""))
    try:
        import_pyrage().decrypt_io(source, pieces, identities.keys)
    except BaseException as raised:  # noqa: BLE001 - a panic in pyrage is none of Exception; the reader gets it all
        # What reading the file has raised, and not what pyrage calls by the same name: a file that ends too early.
        error = source.error or EOFError(str(raised))
    pieces.end(error)
