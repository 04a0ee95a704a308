"""Check audit trails with nothing but Python: `python verify_trail.py PATH`.

PATH is a log, a tree of logs, or the folder of an unpacked evidence bundle. Exit status: 0 all holds, 1 findings, 2
nothing to verify, 3 something can't be read or was not checked, and nothing else was found. A chain can't show by
itself that its newest records were cut off, or that all of it was rewritten: compare the head printed here with one
kept elsewhere. Archived segments are compared with the SHA-256 that the chain records of them; their records are read
as well if Python has a module for zstd (3.14 has). Archives that are encrypted with age are compared with the SHA-256
in the manifest and in the chain, and reported as not checked: nothing here decrypts.
"""

# This file is put into every evidence bundle, so it must run alone, and be short enough to be read by its auditor. It
# decides as `audit-async verify` does: the same log is valid for both, and docs/format.md says of what.

import errno
import io
import json
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from fnmatch import fnmatchcase
from hashlib import sha256
from importlib import import_module
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

__all__ = ["check_bundle", "check_log", "main"]

RECORD = re.compile(
    rb'{"seq":(0|[1-9]\d{0,17}),"audit_id":"[\da-f]{16}-[\da-f]{1,16}","timestamp":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z",'
    rb'"service_id":"(?:[^"\\\0-\x1f]|\\.)*","event":({[^\0-\x1f]*}),"prev_hash":"([\da-f]{64})","hash":"([\da-f]{64})"}\n'
)
SEGMENT = re.compile(r"(\d{12}|[1-9]\d{12,17})-(\d{4}-\d\d-\d\d)\.audit", re.ASCII)
LONGEST_LINE = 65 << 20
MOST_FINDINGS = 100
MOST_IDS = 1 << 27  # bytes for the counters of one opening: a thousand million records
zstd: Any = None
for module in ("compression.zstd", "backports.zstd"):
    with suppress(ImportError):
        zstd = zstd or import_module(module)
zstd_error: Any = zstd.ZstdError if zstd is not None else EOFError


def is_whole(line: bytes, own_hash: bytes) -> bool:
    """Return whether a line hashes to what it says: the SHA-256 of the line without its member `hash`."""
    return sha256(line[:-76] + b"}").hexdigest().encode() == own_hash


def check_log(log: Path, *, is_service_known: bool = False) -> list[str]:
    """Print the head of the log in a directory; return its findings. Raises `NotChecked` if that is all there is."""
    check = LogCheck(log)
    check.run(is_service_known=is_service_known)
    if check.not_checked and not check.findings:
        raise NotChecked("\n".join(check.not_checked))
    return check.findings + check.not_checked


class NotChecked(Exception):
    """Something can't be read here, or not without a decompressor: nothing is known of it."""


class Damaged(Exception):
    """A file is not what the library writes."""


class LogCheck:
    """The check of one log: its files first, then its records in order, then what the records say of the files."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.findings = list[str]()
        self.not_checked = list[str]()
        self.identity: dict[str, Any] = {}
        self.entries: dict[str, dict[str, Any]] = {}  # of the manifest, by segment
        self.is_manifest_known = True  # there is none, or it is what the library writes
        self.head = (-1, b"0" * 64)  # seq and hash of the last record that was read
        self.events = list[dict[str, Any]]()  # `audit.*`, each with the seq and time of its record
        self.ids: dict[bytes, bytearray] = {}  # a bit for each audit_id, by its opening
        self.read: dict[str, Extent] = {}  # what was read of each segment

    def run(self, *, is_service_known: bool) -> None:
        """Check everything."""
        names = set(os.listdir(self.log))
        self.read_identity(is_service_known=is_service_known)
        self.read_manifest()
        self.check_names(names)
        for entry in self.entries.values():
            self.check_sealed(entry, names)
        self.check_unsealed(sorted(name for name in names - set(self.entries) if SEGMENT.fullmatch(name)))
        for name, extent in self.read.items():
            self.check_rest(name, extent)
            if name not in self.entries and f"{name}.sha256" in names:
                self.check_own_checksum(name, extent)
        self.check_records_of_segments()
        if not self.not_checked:
            self.check_hold()
        seq, own = self.head
        kind = self.events[-1]["event_type"] if self.events and self.events[-1]["seq"] == seq else ""
        state = "closed" if kind == "audit.log_closed" else "no audit.log_closed: in use, or not shut down cleanly"
        say(f"{self.log}: head: seq {seq}, hash {own.decode()} ({state})")

    def find(self, name: str, what: str) -> None:
        """Add a finding, unless there are a hundred."""
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(f"{self.log / name}: {what}" if name else f"{self.log}: {what}")

    def small_file(self, name: str, most: int = 1 << 20) -> "bytes | None":
        """Return a small file's content, None if it is missing or can't be read."""
        try:
            with open_regular(self.log / name) as file:
                size = os.fstat(file.fileno()).st_size
                content = file.read(size) if size <= most else b""
        except FileNotFoundError:
            raise
        except Damaged as error:
            self.find(name, f"cannot be checked: {error}")
        except OSError as error:
            self.not_checked.append(f"{self.log / name}: can't be read: {error.strerror}")
        else:
            if size <= most:
                return content
            self.find(name, f"cannot be checked: larger than {most} bytes")
        return None

    # -- log.json, manifest.json and what else is there --------------------------------------------------------------

    def read_identity(self, *, is_service_known: bool) -> None:
        """Read log.json."""
        try:
            content = self.small_file("log.json")
        except FileNotFoundError:
            self.find("log.json", "missing")
            return
        if content is None:
            return
        try:
            identity = {"log_id": ""} | members(json_of(content), IDENTITY, {"instance", "log_id", "created"})
            if identity["format_version"] != 1:
                raise Damaged(f"format version {identity['format_version']}, and this verifier reads 1")
        except Damaged as error:
            self.find("log.json", str(error))
            return
        self.identity = identity
        if is_service_known and identity["service_id"] != self.log.parent.name:
            self.find("log.json", "it names another service than the directory it is in")

    def read_manifest(self) -> None:
        """Read manifest.json."""
        try:
            content = self.small_file("manifest.json", 1 << 28)
        except FileNotFoundError:
            return
        self.is_manifest_known = False
        if content is None:
            return
        try:
            manifest = members(json_of(content), MANIFEST, {"rebuilt"})
            if "rebuilt" in manifest:
                say(f"{self.log}: the manifest was made again from a copy, at {manifest['rebuilt']!a}")
            log_id = self.identity.get("log_id", manifest["log_id"])
            if (manifest["format_version"], manifest["log_id"]) != (1, log_id):
                raise Damaged("of another log or format version")
            entries, due, prev = {}, 0, "0" * 64
            for item in manifest["segments"]:
                entry = {"state": "live"} | members(item, ENTRY, {"state", "recorded", "encrypted"})
                members(entry.get("encrypted", {}), ENCRYPTED, set() if "encrypted" in entry else set(ENCRYPTED))
                name = SEGMENT.fullmatch(entry["segment"])
                in_place = entry["first_seq"] == due and entry["prev_hash"] == prev and len(entry["hash"]) == 64
                if (
                    name is None
                    or (int(name[1]), name[2]) != (due, entry["first_timestamp"][:10])
                    or not in_place
                    or entry["state"] not in STATES
                    or not 0 < entry["records"] == entry["last_seq"] - due + 1
                ):
                    raise Damaged(f"the entry for seq {due} does not follow the one before")
                entries[entry["segment"]] = entry
                due, prev = entry["last_seq"] + 1, entry["hash"]
        except Damaged as error:
            self.find("manifest.json", f"cannot be checked: {error}")
            return
        self.entries, self.is_manifest_known = entries, True

    def check_names(self, names: set[str]) -> None:
        """Find files that look like parts of the log and are none."""
        for name in sorted(names):
            base = name.removesuffix(".sha256")
            if ".audit" not in name or name.endswith(".unfinished") or SEGMENT.fullmatch(name):
                continue
            if not SEGMENT.fullmatch(base) or base not in names | set(self.entries):
                self.find(name, "cannot be checked: no file of this log")
        try:
            archives = os.listdir(self.log / "archive")
        except FileNotFoundError:
            archives = []
        except NotADirectoryError:
            archives = []
            self.find("archive", "not a directory")
        except OSError as error:
            archives = []
            self.not_checked.append(f"{self.log / 'archive'}: can't be read: {error.strerror}")
        if (self.log / "archive").is_symlink():
            self.find("archive", "a symbolic link")
        if "manifest.json" in names and self.is_manifest_known:
            for name in sorted(archives):
                segment = name.removesuffix(".zst.age") if name.endswith(".age") else name.removesuffix(".zst")
                if not name.endswith(".unfinished") and segment not in self.entries:
                    self.find(f"archive/{name}", "no archive of this log")

    # -- segments ----------------------------------------------------------------------------------------------------

    def check_sealed(self, entry: dict[str, Any], names: set[str]) -> None:
        """Check a segment that the manifest has, or join the chain over it."""
        name, state, encrypted = entry["segment"], entry["state"], entry.get("encrypted")
        archive = f"archive/{name}.zst{'.age' if encrypted else ''}"
        before, self.head = self.head, (entry["last_seq"], entry["hash"].encode())
        if state in {"lost", "damaged"}:
            self.find(name, f"{state} while the log was written")
        if state in {"deleted", "lost"}:
            say(f"{self.log}: seq {entry['first_seq']} on is {state!a}: not read here, joined by the manifest's hash")
            return
        if state == "live":
            self.check_checksum(entry, names)
        is_archived = state == "archived" or (name not in names and exists(self.log / archive))
        if encrypted and is_archived:
            self.check_encrypted(entry, archive)
            return
        if is_archived and zstd is None:
            say(f"{self.log}: seq {entry['first_seq']} on is {state!a}: not read here (zstd), joined by its hashes")
            self.read[name] = Extent(archive_sha256=self.archive_digest(name, archive))
            return
        extent = self.read_segment(name, archive if is_archived else name, before, None, entry["bytes"])
        self.head = (entry["last_seq"], entry["hash"].encode())
        if extent is None:
            return
        if is_archived:
            extent.archive_sha256 = self.archive_digest(name, archive)
        if extent.is_good and (
            (extent.last_seq, extent.last_hash) != (entry["last_seq"], entry["hash"].encode())
            or (extent.size, extent.digest.hexdigest()) != (entry["bytes"], entry["sha256"])
            or (extent.first_time, extent.last_time) != (entry["first_timestamp"], entry["last_timestamp"])
        ):
            self.find(name, "not what manifest.json says")

    def check_encrypted(self, entry: dict[str, Any], archive: str) -> None:
        """Check that an encrypted archive is the file that the manifest has; what is in it can't be read here."""
        name = entry["segment"]
        digest = self.archive_digest(name, archive)
        if digest and digest != entry["encrypted"].get("sha256"):
            self.find(name, "its encrypted archive is not the file that manifest.json has")
        self.read[name] = Extent(archive_sha256=digest, is_encrypted=True)
        text = f"seq {entry['first_seq']} to {entry['last_seq']} are encrypted with age, and joined by their hashes"
        self.not_checked.append(f"{self.log / archive}: {text}; audit-async verify --identity reads them")

    def archive_digest(self, name: str, archive: str) -> str:
        """Return the SHA-256 of an archive as it is; empty if it can't be read."""
        try:
            with open_regular(self.log / archive) as file:
                digest = sha256()
                while block := file.read(1 << 20):
                    digest.update(block)
                return digest.hexdigest()
        except (FileNotFoundError, NotADirectoryError):
            self.find(name, "its archive is missing")
        except Damaged as error:
            self.find(archive, str(error))
        except OSError as error:
            self.not_checked.append(f"{self.log / archive}: can't be read: {error.strerror}")
        return ""

    def check_checksum(self, entry: dict[str, Any], names: set[str]) -> None:
        """Compare a checksum file with the manifest; one that is missing is made by the next opening."""
        name = f"{entry['segment']}.sha256"
        try:
            content = self.small_file(name)
        except FileNotFoundError:
            if entry["segment"] in names:
                say(f"{self.log / name}: missing; the next opening makes it")
            return
        if content is not None and content != f"{entry['sha256']}  {entry['segment']}\n".encode():
            self.find(entry["segment"], "not what its .sha256 says")

    def check_own_checksum(self, name: str, extent: "Extent") -> None:
        """Compare the checksum file of a segment that an older manifest does not have."""
        try:
            content = self.small_file(f"{name}.sha256")
        except FileNotFoundError:
            return
        is_whole = extent.is_good and extent.rest_at is None and not extent.is_converted
        if content is not None and is_whole and content != f"{extent.digest.hexdigest()}  {name}\n".encode():
            self.find(name, "not what its .sha256 says" if content.isascii() else "cannot be checked: its .sha256")

    def check_unsealed(self, names: list[str]) -> None:
        """Check the segments that the manifest does not have, in order; the last one may be torn."""
        due = self.head[0] + 1
        placed = [name for name in names if first_seq(name) >= due]
        for name in set(names) - set(placed):
            self.find(name, f"it begins with seq {first_seq(name)}, but the chain is past {due - 1}")
        for name, second in pairwise(list(placed)):
            if first_seq(name) == first_seq(second):
                self.find(second, f"a second segment that begins with seq {first_seq(name)}")
                placed.remove(second)
        is_filled = any(exists(self.log / name) and os.lstat(self.log / name).st_size for name in placed)
        if self.entries and not is_filled:
            self.find(list(self.entries)[-1], "the segment that follows it is missing or empty")
        elif not placed:
            self.find("", "no records: what the log held was removed, or its first opening failed before a record")
        is_known = self.is_manifest_known
        for name, following in zip_longest(placed, placed[1:]):
            before = self.head
            if first_seq(name) != before[0] + 1:
                if is_known and before[0] + 1 < first_seq(name):
                    self.find(name, f"records are missing from seq {before[0] + 1}, before this segment")
                before = (first_seq(name) - 1, b"")
            until = first_seq(following) if following is not None else None
            if self.read_segment(name, name, before, until, None) is None:
                self.head, is_known = (self.head[0], b""), False  # nothing is known of what it holds
            else:
                is_known = True

    def read_segment(
        self, name: str, path: str, before: "tuple[int, bytes]", until: "int | None", most: "int | None"
    ) -> "Extent | None":
        """Check the lines of a segment, up to `until` or `most` bytes; None if it can't be read."""
        try:
            with open_regular(self.log / path) as file:
                size = os.fstat(file.fileno()).st_size if path == name else 0
                extent = self.read[name] = Extent(size_of_file=size, is_last=until is None and most is None)
                content: BinaryIO = file if path == name else zstd.ZstdFile(file)
                self.head = before
                self.read_lines(name, content, extent, until, most)
        except (FileNotFoundError, NotADirectoryError):
            self.find(name, "missing")
        except Damaged as error:
            self.find(name, f"cannot be checked: {error}")
        except OSError as error:
            self.not_checked.append(f"{self.log / path}: can't be read: {error.strerror}")
        except (EOFError, zstd_error):
            self.find(name, "its archive can't be decompressed")
        else:
            return extent
        return None

    def read_lines(self, name: str, file: BinaryIO, extent: "Extent", until: "int | None", most: "int | None") -> None:
        """Check line by line; note in `extent` where what is no part of the chain begins."""
        number = 0
        while line := file.readline(LONGEST_LINE):
            due, prev = self.head[0] + 1, self.head[1]
            if most is not None and extent.size >= most and not extent.is_converted:
                extent.rest_at = extent.size  # what follows is judged by `check_rest`
                return
            number += 1
            if line.endswith(b"\r\n"):
                if not extent.is_converted:
                    self.find(f"{name}:{number}", "not a whole record: it ends in CR LF, the file was converted")
                extent.is_converted, line = True, line[:-2] + b"\n"
            record = record_of(line)
            if until is not None and due == until:
                extent.rest_at = extent.size
                return
            is_due = record is not None and (record.seq, record.linked) == (due, prev or record.linked)
            if not is_due and extent.is_last and extent.is_good and is_torn(file, extent.size):
                extent.rest_at = extent.size
                say(f"{self.log / name}: torn at byte {extent.size} by a crash; the next opening repairs it")
                return
            if record is None or not is_due:
                extent.is_good = False
                reason = f"seq {record.seq} does not follow the record before" if record else reason_of(line)
                self.find(f"{name}:{number}", reason)
            extent.size += len(line)
            extent.digest.update(line)
            if record is None:
                self.head = (due, b"")
            else:
                self.take(name, number, record, extent)

    def take(self, name: str, number: int, record: "Record", extent: "Extent") -> None:
        """Take a record over."""
        self.head = (record.seq, record.hash)
        if extent.first_seq is None:
            extent.first_seq, extent.first_time = record.seq, record.time
            if (record.seq, record.time[:10]) != (first_seq(name), name.split("-", 1)[1][:10]):
                self.find(f"{name}:{number}", "the segment is named for another record")
                extent.is_good = False
        extent.last_seq, extent.last_hash, extent.last_time = record.seq, record.hash, record.time
        extent.records += 1
        if self.identity and record.service_id != self.identity["service_id"]:
            self.find(f"{name}:{number}", "of another service than log.json names")
        opening, _, counter = record.audit_id.partition(b"-")
        at, bit = divmod(int(counter, 16), 8)
        if at < MOST_IDS:
            bits = self.ids.setdefault(opening, bytearray())
            bits.extend(bytes(max(0, at + 1 - len(bits))))
            if bits[at] >> bit & 1:
                self.find(f"{name}:{number}", "its audit_id was given to a record before")
            bits[at] |= 1 << bit
        if record.event.get("event_type", "").startswith("audit."):
            self.events.append(record.event | {"seq": record.seq, "timestamp": record.time})

    def check_rest(self, name: str, extent: "Extent") -> None:
        """Judge what comes after a segment's records: copies of what follows are left by a failed fsync."""
        sealed = self.entries.get(name)
        at = extent.rest_at
        if sealed is not None and extent.size_of_file > sealed["bytes"] and not extent.is_converted:
            at = sealed["bytes"]
        if at is None or extent.is_last:
            return
        following = [*self.read]
        following = following[following.index(name) + 1 :]
        try:
            explained = sealed is None or holds_more_than_zeros(self.log / name, at)
            if explained and is_copy(self, name, at, following):
                say(f"{self.log / name}: ends with copies of later records, from byte {at} on")
                return
        except (FileNotFoundError, Damaged):
            pass
        except OSError as error:
            self.not_checked.append(f"{self.log / name}: can't be read: {error.strerror}")
            return
        self.find(name, f"from byte {at} on it is no copy of the segments that follow")

    # -- what the chain records --------------------------------------------------------------------------------------

    def check_records_of_segments(self) -> None:
        """Compare the manifest and the archives with what the chain records of them."""
        archives: dict[str, set[str]] = {}
        deletions: dict[str, dict[str, Any]] = {}
        for event in self.events:
            kind, name = event["event_type"], str(event.get("segment"))
            entry = self.entries.get(name)
            if kind == "audit.segment_sealed":
                self.check_seal(name, event)
            elif kind == "audit.segment_archived":
                archives.setdefault(name, set()).add(str(event.get("archive_sha256")))
            elif kind == "audit.segment_deleted":
                deletions[name] = event
                if entry is not None and entry["state"] == "deleted" and differ(event, entry, DELETED):
                    self.find(name, "its entry is not what the chain records of the deleted segment")
        for name, extent in self.read.items():
            if not extent.archive_sha256:
                continue
            if name in archives and extent.archive_sha256 not in archives[name]:
                self.find(name, "its archive is not the file that the chain records")
            elif name not in archives and extent.first_seq is None and not extent.is_encrypted:
                text = "its archive was not checked: Python 3.14 can read it, and audit-async verify"
                self.not_checked.append(f"{self.log / name}: {text}")
        deleted = [name for name, entry in self.entries.items() if entry["state"] == "deleted"]
        if deleted and deleted[-1] not in deletions and not self.not_checked:
            unread = [name for name, extent in self.read.items() if extent.archive_sha256 and extent.first_seq is None]
            if unread:
                text = "whether the chain records its deletion was not checked: that may be in an archive"
                self.not_checked.append(f"{self.log / deleted[-1]}: {text}")
            else:
                self.find(deleted[-1], "manifest.json says that it was deleted, and the chain does not record it")

    def check_seal(self, name: str, event: dict[str, Any]) -> None:
        """Compare a seal with the manifest, or, in a copy whose manifest is older, with the segment."""
        entry, extent = self.entries.get(name), self.read.get(name)
        if entry is not None:
            if differ(event, entry, SEALED):
                self.find(name, "its entry is not what the chain records of the sealed segment")
        elif not self.is_manifest_known:
            return
        elif extent is None:
            if not any(str(self.log / name) in text for text in [*self.not_checked, *self.findings]):
                self.find("manifest.json", f"it has no entry for {name}, which the chain records as sealed")
        elif extent.is_good:
            read = {"first_seq": extent.first_seq, "last_seq": extent.last_seq, "records": extent.records}
            if differ(event, read | {"bytes": extent.size, "sha256": extent.digest.hexdigest()}, SEALED):
                self.find(name, "not what the chain records of the sealed segment")

    def check_hold(self) -> None:
        """Compare hold.json with the chain: a legal hold is lifted by a record and by nothing else."""
        holds: dict[str, dict[str, Any]] = {}
        lifted: dict[str, str] = {}
        for event in self.events:
            stated: list[Any] = event.get("holds") or []
            if event["event_type"] == "audit.hold_set":
                stated = [event | {"id": event.get("hold_id", ""), "since": event.get("since") or event["timestamp"]}]
            elif event["event_type"] == "audit.hold_lifted":
                lifted[event.get("hold_id", "")] = event["timestamp"]
                holds.pop(event.get("hold_id", ""), None)
            for hold in stated:
                lifted.pop(hold.get("id", ""), None)
                holds.setdefault(hold.get("id", ""), hold)
        try:
            content = self.small_file("hold.json")
        except FileNotFoundError:
            if holds:
                self.find("hold.json", "missing, though the chain records a legal hold and no lifting")
            return
        if content is None:
            return
        try:
            hold = {"id": ""} | members(json_of(content), HOLD, {"id"})
        except Damaged as error:
            self.find("hold.json", str(error))
            return
        recorded = holds.get(hold["id"])
        if recorded is not None:
            names = ["reason", "set_by", "since"] if hold["id"] else ["reason", "set_by"]
            if not all(agree(hold[name], str(recorded.get(name))) for name in names):
                self.find("hold.json", "not what the chain records of the legal hold")
        elif holds:
            self.find("hold.json", "it states another legal hold than the chain, which records no lifting")

    def is_misnamed(self) -> bool:
        """Return whether log.json names another instance; not known of a log that was copied elsewhere."""
        named, is_in_place = self.identity.get("instance"), self.log.parent.name == self.identity.get("service_id")
        return bool(named) and is_in_place and named != self.log.name

    def hash_at(self, seq: int) -> "bytes | None":
        """Return the hash of a record; None if it is not there."""
        if seq == self.head[0]:
            return self.head[1]
        for entry in self.entries.values():
            if entry["last_seq"] == seq:
                return str(entry["hash"]).encode()
        for name, extent in self.read.items():
            if extent.first_seq is not None and extent.first_seq <= seq <= extent.last_seq:
                entry = self.entries.get(name, {"state": "live"})
                if entry["state"] == "live":
                    for line in lines_of(self.log / name):
                        if line.startswith(b'{"seq":%d,' % seq):
                            return line[-67:-3]
        return None


class Extent:
    """What was read of one segment."""

    def __init__(
        self, *, size_of_file: int = 0, is_last: bool = False, archive_sha256: str = "", is_encrypted: bool = False
    ) -> None:
        self.size_of_file, self.is_last = size_of_file, is_last
        self.archive_sha256, self.is_encrypted = archive_sha256, is_encrypted
        self.is_good = True  # all lines are records in their places
        self.is_converted = False  # to CR LF
        self.size, self.records, self.digest = 0, 0, sha256()
        self.rest_at: int | None = None  # from here on nothing is part of the chain
        self.first_seq: int | None = None
        self.last_seq, self.last_hash, self.first_time, self.last_time = -1, b"", "", ""


class Record(NamedTuple):
    """A line that is a record, and hashes to what it says."""

    seq: int
    linked: bytes  # prev_hash
    hash: bytes
    audit_id: bytes
    time: str
    service_id: str
    event: dict[str, Any]  # empty, unless it is one of the library's own


def record_of(line: bytes) -> "Record | None":
    """Return the record in a line; None if it is none."""
    match = RECORD.fullmatch(line)
    if match is None or not is_whole(line, match[4]):
        return None
    try:
        record = PARSER.decode(line.decode())
    except (ValueError, RecursionError):
        return None
    values = dict(record)
    names = [name for name, _ in record if name != "context"]
    if names != NAMES or not all(isinstance(values.get(name, Pairs()), Pairs) for name in ("event", "context")):
        return None
    event = json.loads(line)["event"] if b'"event":{"event_type":"audit.' in line else {}
    return Record(
        int(match[1]), match[3], match[4], values["audit_id"].encode(), values["timestamp"], values["service_id"], event
    )


class Pairs(list[Any]):
    """An object of JSON, with its members in their order."""


def refuse(constant: str) -> None:
    """Refuse what Python takes for JSON, and no one else: NaN and the infinities."""
    raise ValueError(constant)


PARSER = json.JSONDecoder(object_pairs_hook=Pairs, parse_int=str, parse_float=str, parse_constant=refuse)
NAMES = ["seq", "audit_id", "timestamp", "service_id", "event", "prev_hash", "hash"]


def reason_of(line: bytes) -> str:
    """Say why a line is no record."""
    match = RECORD.fullmatch(line)
    return "not a whole record" if match is None or is_whole(line, match[4]) else "its hash is not its own"


def is_torn(file: BinaryIO, at: int) -> bool:
    """Return whether a crash leaves such an end: part of a line, or blocks that were never written."""
    here = file.tell()
    file.seek(at)
    line = file.readline(LONGEST_LINE)
    zeros = line.find(b"\0")
    if zeros < 0:
        file.seek(here)
        return not line.endswith(b"\n") and len(line) < LONGEST_LINE
    begin = end = at + zeros
    file.seek(begin)
    rest = b""
    while not rest and (block := file.read(1 << 20)):
        rest = block.lstrip(b"\0")
        end += len(block) - len(rest)
    file.seek(here)
    return (begin == at or begin % 512 == 0) and (not rest or end % 512 == 0)


def is_copy(check: LogCheck, name: str, at: int, following: "list[str]") -> bool:
    """Return whether a segment goes on, from a byte on, with the segments that follow, or zeros for a block of them."""
    with open_regular(check.log / name) as copies:
        size = os.fstat(copies.fileno()).st_size
        copies.seek(at)
        for other in following:
            entry, extent = check.entries.get(other), check.read[other]
            if entry is not None and entry["state"] != "live":
                return False
            with open_regular(check.log / other) as file:
                length = entry["bytes"] if entry is not None else extent.rest_at
                left = length if length is not None else os.fstat(file.fileno()).st_size
                while left and (theirs := copies.read(min(left, 1 << 20))):
                    ours = file.read(len(theirs))
                    if len(ours) != len(theirs) or any(a not in (0, b) for a, b in zip(theirs, ours, strict=True)):
                        return False
                    left -= len(theirs)
            if copies.tell() >= size:
                return True
        due, linked = check.head[0] + 1, check.head[1]
        while copies.tell() < size:  # what a crash took from the last of them
            begin = copies.tell()
            record = record_of(copies.readline(LONGEST_LINE))
            if record is None or (record.seq, record.linked) != (due, linked):
                return is_torn(copies, begin)
            due, linked = due + 1, record.hash
    return True


def holds_more_than_zeros(path: Path, at: int) -> bool:
    """Return whether a file has anything but zeros from a byte on."""
    with open_regular(path) as file:
        file.seek(at)
        return any(block.strip(b"\0") for block in iter(lambda: file.read(1 << 20), b""))


def json_of(content: bytes) -> object:
    """Return what JSON says."""
    try:
        return json.loads(content.decode(), parse_constant=refuse)
    except (ValueError, RecursionError):
        raise Damaged("not what the library writes") from None


def members(value: object, types: "dict[str, type]", optional: "set[str]") -> dict[str, Any]:
    """Return an object whose members are these and no others, each of its type."""
    if not isinstance(value, dict) or not set(types) - optional <= set(value) <= set(types):
        raise Damaged("not what the library writes")
    if any(type(member) is not types[name] for name, member in value.items()):
        raise Damaged("not what the library writes")
    return value


def open_regular(path: Path) -> "io.BufferedReader":
    """Open a file; waits for no FIFO, follows no link, and reads no device."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        fd = os.open(path, flags)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO}:
            raise Damaged("not a regular file but a link, a directory or a device") from None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Damaged("not a regular file but a directory or a device")
    return open(fd, "rb")


def exists(path: Path) -> bool:
    """Return whether something has this name, or may have: of what can't be seen nothing is said."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def first_seq(name: str) -> int:
    """Return the seq that a segment is named for."""
    return int(name.partition("-")[0])


def differ(event: dict[str, Any], entry: dict[str, Any], names: "tuple[str, ...]") -> bool:
    """Return whether the chain records something else."""
    return any(event.get(name) != entry[name] for name in names)


def agree(stated: str, recorded: str) -> bool:
    """Return whether a text is the one that is recorded, which may be cut and made harmless."""
    return stated[:200] == recorded[:200] or not (stated.isascii() and stated.isprintable())


IDENTITY: "dict[str, type]" = {
    "format_version": int, "log_id": str, "service_id": str, "created": str, "instance": str,
}  # fmt: skip
ENTRY: "dict[str, type]" = {
    "segment": str, "state": str, "first_seq": int, "last_seq": int, "first_timestamp": str, "last_timestamp": str,
    "records": int, "bytes": int, "sha256": str, "prev_hash": str, "hash": str, "recorded": bool,
    "encrypted": dict,
}  # fmt: skip
ENCRYPTED: "dict[str, type]" = {"sha256": str, "bytes": int, "earliest": str, "latest": str}
MANIFEST: "dict[str, type]" = {"format_version": int, "log_id": str, "rebuilt": str, "segments": list}
HOLD: "dict[str, type]" = {"reason": str, "set_by": str, "since": str, "id": str}
STATES = {"live", "archived", "deleted", "damaged", "lost"}
SEALED = ("first_seq", "last_seq", "records", "bytes", "sha256")
DELETED = ("first_seq", "last_seq", "sha256", "hash")


def compare_logs(checks: "list[LogCheck]") -> Iterator[str]:
    """Yield what is wrong with logs that have one log_id, and with their directories' names."""
    by_id: dict[str, list[LogCheck]] = {}
    for check in checks:
        by_id.setdefault(check.identity.get("log_id", ""), []).append(check)
    for log_id, group in by_id.items():
        misnamed = [check for check in group if check.is_misnamed()]
        if len(misnamed) == len(group) or not log_id:
            yield from (f"{check.log / 'log.json'}: it names another instance than its directory" for check in misnamed)
        longest, *others = sorted(group, key=lambda check: -check.head[0])
        if not log_id:
            continue
        for check in others:
            seq, own = check.head
            there = longest.hash_at(seq)
            if there is not None and there != own:
                yield f"{check.log}: the same log_id as {longest.log}, and another record at seq {seq}"
            else:
                say(f"{check.log}: the same log_id as {longest.log}: one is a copy of the other")


def check_bundle(folder: Path) -> Iterator[str]:
    """Print what an evidence bundle holds and was asked for; yield what is wrong with it."""
    listed = {"MANIFEST.sha256"}
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not is_folder(path)}
    if irregular := [name for name, path in there.items() if not is_regular(path)]:
        yield from (f"{name}: a link, a FIFO or a device: nothing of the bundle was read" for name in irregular)
        return
    for line in (folder / "MANIFEST.sha256").read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        listed.add(name)
        if name not in there:
            yield f"{name}: missing"
        elif digest != digest_of(there[name]):
            yield f"{name}: not what MANIFEST.sha256 says"
    contents = json.loads((folder / "bundle.json").read_bytes())
    folders = [str(part["log"]) for part in contents["logs"]]
    for name in sorted(there):
        belongs = name in OF_EVERY_BUNDLE or name.rpartition("/")[0] in folders
        if name not in listed or not belongs:
            yield f"{name}: does not belong to the bundle"
    query = Query(contents)
    say(f"{folder}: made {contents['created']} of what was asked for with {json.dumps(query.asked)}")
    if not folders or len(set(folders)) < len(folders):
        yield "bundle.json: it names no log, so it proves nothing" if not folders else "bundle.json: a log comes twice"
    if sum(part["records"] for part in contents["logs"]) > query.asked.get("limit", 10**18):
        yield "bundle.json: it has more records than were asked for"
    for part in contents["logs"]:
        for name in ("chain.ndjson", "records.ndjson", *(["log.json"] if part["log_id"] else [])):
            if f"{part['log']}/{name}" not in listed & set(there):
                yield f"{part['log']}/{name}: missing"
        yield from check_part(folder / part["log"], part, query)
    query.say_undecided(folder)


OF_EVERY_BUNDLE = {"MANIFEST.sha256", "README.txt", "bundle.json", "verify_trail.py"}


def check_part(log: Path, part: dict[str, Any], query: "Query") -> list[str]:
    """Check one log's piece of a bundle: its chain, ends and seals, and that its records are those asked for."""
    chain, findings, found = log / "chain.ndjson", list[str](), 0
    due, prev = part["first_seq"], part["prev_hash"].encode()
    seals, records = Seals(log), lines_of(log / "records.ndjson")
    exported = next(records, None)
    for number, line in enumerate(lines_of(chain), 1):
        record = RECORD.fullmatch(line)
        seq, linked, own = (int(record[1]), record[3], record[4]) if record else (due, b"", b"")
        if record is None or not is_whole(line, own):
            findings.append(f"{chain}:{number}: {'its hash is not its own' if record else 'not a whole record'}")
        elif seq != due or linked != prev or (seq == 0 and linked != b"0" * 64):
            findings.append(f"{chain}:{number}: seq {seq} does not follow the record before")
        findings += seals.check(line, seq, linked, own)
        is_exported = line == exported
        if is_exported:
            found, exported = found + 1, next(records, None)
        if record and query.contradicts(line, is_exported):
            findings.append(f"{log}: seq {seq} was {'exported and not asked for' if is_exported else 'left out'}")
        due, prev = seq + 1, own
        if len(findings) >= 100:
            return findings
    if (due - 1, prev.decode()) != (part["last_seq"], part["hash"]):
        findings.append(f"{chain}: it ends at seq {due - 1}, not as bundle.json says")
    if exported is not None or found != part["records"] or not found:
        findings.append(f"{log}: {part['records']} records were exported, and {found} of them are in the chain")
    head = part["head"] or {"seq": due - 1, "hash": prev.decode()}  # None if it could not be read
    if head["seq"] < due - 1 or (head["seq"] == due - 1 and head["hash"] != prev.decode()):
        findings.append(f"{log}: the chain does not end before the log's head in bundle.json")
    for name in ("log.json", "manifest.json"):
        if (log / name).exists() and json.loads((log / name).read_bytes())["log_id"] != part["log_id"]:
            findings.append(f"{log / name}: of another log than bundle.json says")
    say(f"{log}: {found} records, in the chain from seq {part['first_seq']} to seq {due - 1}, hash {prev.decode()}")
    return findings


class Query:
    """What the records of a bundle were asked for with; it decides as the export did, as far as nothing is sealed."""

    def __init__(self, contents: dict[str, Any]) -> None:
        """Read `query` of bundle.json, and how its texts are recorded if they hold unsafe characters."""
        self.asked: dict[str, Any] = contents["query"]
        self.recorded_as: dict[str, str] = contents.get("recorded_as", {})
        self.critical_types: list[str] = contents.get("critical_types", [])
        self.undecided = 0
        unknown = set(self.asked) - QUERY_MEMBERS
        if unknown:
            raise ValueError(f"bundle.json asks for what this verifier does not know: {sorted(unknown)}")

    def contradicts(self, line: bytes, is_exported: bool) -> bool:
        """Return whether a record was exported and not asked for, or left out; counts what a sealed member decides."""
        asked = self.asks_for(line)
        self.undecided += asked is None
        return asked is not None and asked != is_exported

    def say_undecided(self, folder: Path) -> None:
        """Print of how many records nobody without the keys can say whether they were asked for."""
        if self.undecided:
            count = (
                "1 record: whether it was" if self.undecided == 1 else f"{self.undecided} records: whether they were"
            )
            say(f"{folder}: {count} asked for, is sealed: not checked")

    def asks_for(self, line: bytes) -> "bool | None":
        """Return whether a record of the chain was asked for; None if a member decides that which is sealed."""
        if self.is_met_by(json.loads(SEALED_TEXT.sub(b"{}", line))):
            return True
        fits_sealed = SEALED_TEXT.search(line) and self.is_met_by(json.loads(SEALED_TEXT.sub(rb'"\\ud800"', line)))
        return None if fits_sealed else False

    def is_met_by(self, record: dict[str, Any]) -> bool:
        """Return whether a record is what was asked for, if `ANY_TEXT` in it is taken for the text that is wanted."""
        event, context, asked = record["event"], record.get("context", {}), self.asked
        kind, after = str(event["event_type"]), asked.get("after_seq", -1)
        types, texts = asked.get("event_types", []), [event, context]
        return (
            record["seq"] > after
            and (not types or any(fnmatchcase(kind, pattern) for pattern in types))
            and asked.get("critical", kind in self.critical_types) == (kind in self.critical_types)
            and ("start" not in asked or moment(record["timestamp"]) >= moment(asked["start"]))
            and ("end" not in asked or moment(record["timestamp"]) < moment(asked["end"]))
            and all(self.is_among(asked[name], said(event)) for name, said in SAID_BY_EVENTS.items() if name in asked)
            and ("ip" not in asked or self.is_address(asked["ip"], addresses_of(event)))
            and ("status" not in asked or not statuses(asked["status"]).isdisjoint([as_text(event.get("status"))]))
            and all(self.are_at(path, v, event, context) for path, v in asked.get("fields", {}).items())
            and all(self.is_among(v, [as_text(context.get(k))]) for k, v in asked.get("context", {}).items())
            and ("text" not in asked or any(self.holds(asked["text"], text) for text in all_texts(texts)))
        )

    def is_among(self, wanted: "str | dict[str, str]", named: "Iterable[str | None]") -> bool:
        """Return whether a text, or its recorded form, is one of those; or one of those has a pattern."""
        if isinstance(wanted, str):
            return not {wanted, self.recorded_as.get(wanted, wanted), ANY_TEXT}.isdisjoint(named)
        pattern = wanted["pattern"]
        patterns = [as_fnmatch(pattern), as_fnmatch(self.recorded_as.get(pattern, pattern))]
        return any(text == ANY_TEXT or fnmatchcase(text, one) for text in named if text is not None for one in patterns)

    def is_address(self, wanted: str, named: "Iterable[str | None]") -> bool:
        """Return whether one of those is the address, or in the network."""
        if "/" in wanted:
            network = ip_network(wanted, strict=False)
            return any(text == ANY_TEXT or (text is not None and is_in_network(text, network)) for text in named)
        spellings = {wanted, self.recorded_as.get(wanted, wanted), *spellings_of_address(wanted)}
        return not {*spellings, ANY_TEXT}.isdisjoint(named)

    def are_at(self, path: str, wanted: "str | list[str]", event: object, context: object) -> bool:
        """Return whether each of these values is at a member's path."""
        first, dot, rest = path.partition(".")
        names = rest.split(".") if dot and first in {"event", "context"} else path.split(".")
        there = list(values_at(context if dot and first == "context" else event, names))
        return all(self.is_among(one, there) for one in ([wanted] if isinstance(wanted, str) else wanted))

    def holds(self, wanted: str, text: str) -> bool:
        """Return whether a text holds another, or its recorded form."""
        return text == ANY_TEXT or wanted in text or self.recorded_as.get(wanted, wanted) in text


# A member that is sealed, and what it is compared as: no text of a record or a query holds a surrogate.
SEALED_TEXT = re.compile(rb'(?<!\\)"sealed:1:[A-Za-z0-9_-]{22}:[A-Za-z0-9_-]{80,}:[A-Za-z0-9_-]{43}"(?!:)')
ANY_TEXT = "\ud800"
QUERY_MEMBERS = {
    *("actor", "resource_id", "event_types", "start", "end", "critical", "context", "text", "after_seq", "limit"),
    *("ip", "path", "status", "outcome", "fields"),
}


def actors_of(event: dict[str, Any]) -> "list[str | None]":
    """Return whom an event names as acting."""
    named = [as_text(event.get(name)) for name in ("attempted_user", "requester", "set_by", "lifted_by")]
    if "actor" in event:
        actor = event["actor"]
        return [*named, as_text(actor.get("user_id") if isinstance(actor, dict) else actor)]
    return [*named, as_text(event.get("user_id")), as_text(event.get("actor_id"))]


def resources_of(event: dict[str, Any]) -> "list[str | None]":
    """Return what an event was done to or with."""
    resource = event.get("resource")
    named = [resource.get("resource_id"), resource.get("parent_id")] if isinstance(resource, dict) else []
    of_event = ("subject", "model_ref", "segment")
    named += [value for name, value in event.items() if name.endswith("_id") or name in of_event]
    return [as_text(value) for value in named]


def addresses_of(event: dict[str, Any]) -> "list[str | None]":
    """Return the addresses that an event names."""
    actor = event.get("actor")
    return [as_text(event.get("ip")), as_text(actor.get("ip")) if isinstance(actor, dict) else None]


def paths_of(event: dict[str, Any]) -> "list[str | None]":
    """Return the paths of requests that an event names."""
    return [as_text(event.get(name)) for name in ("path", "route", "endpoint", "attempted_path")]


def outcomes_of(event: dict[str, Any]) -> "list[str | None]":
    """Return how it ended, as far as the event says so."""
    kind, outcome, result = event["event_type"], event.get("outcome"), event.get("result")
    status, is_http = event.get("status"), kind in {"http.request", "http.websocket_closed"}
    if outcome is None and is_http:
        outcome = "completed"
    said = [outcome, result.get("status") if isinstance(result, dict) else result, OUTCOME_OF_TYPE.get(kind)]
    code = status if isinstance(status, int) else 0
    if is_http and (outcome == "failed" or 400 <= code < 600):
        said.append("failure")
    elif is_http and outcome == "completed" and 100 <= code < 400:
        said.append("success")
    return [text for text in said if isinstance(text, str)]


OUTCOME_OF_TYPE = {
    **dict.fromkeys(("auth.success", "authz.granted", "seal.verified"), "success"),
    **dict.fromkeys(("auth.failure", "authz.denied", "user.mfa_failed"), "failure"),
    **dict.fromkeys(("seal.verification_failed", "vram.allocation_failed"), "failure"),
}
SAID_BY_EVENTS = {"actor": actors_of, "resource_id": resources_of, "path": paths_of, "outcome": outcomes_of}


def statuses(asked: "int | str") -> set[str]:
    """Return the statuses that are asked for with `404`, `5xx`, `400-499`, or several of them."""
    found: set[str] = set()
    for part in str(asked).lower().replace(" ", "").split(","):
        first, _, last = part.partition("-")
        low, high = (f"{part[0]}00", f"{part[0]}99") if part.endswith("xx") else (first, last or first)
        found.update(map(str, range(int(low), int(high) + 1)))
    return found


def as_fnmatch(pattern: str) -> str:
    """Return a pattern in which only `*`, `?`, `[*]`, `[?]` and `[[]` mean something, as fnmatch reads it."""
    return re.sub(r"\[[*?[]\]|\[", lambda found: found[0] if len(found[0]) == 3 else "[[]", pattern)


def spellings_of_address(text: str) -> set[str]:
    """Return how else an address may have been recorded."""
    try:
        address = ip_address(text)
    except ValueError:
        return set()
    old = address if isinstance(address, IPv4Address) else address.ipv4_mapped
    return {str(address), address.exploded, *((str(old), f"::ffff:{old}") if old else ())}


def is_in_network(text: str, network: "IPv4Network | IPv6Network") -> bool:
    """Return whether a text is an address of a network."""
    if network.version == 4 and text.lower().startswith("::ffff:"):
        text = text[len("::ffff:") :]
    try:
        return ip_address(text) in network
    except ValueError:
        return False


def values_at(value: object, names: list[str]) -> "Iterator[str | None]":
    """Yield what is at a member's path as text, an event's deepest members without recursion."""
    waiting = [(value, 0)]
    while waiting:
        value, at = waiting.pop()
        if isinstance(value, list):
            is_position = at < len(names) and names[at].isdecimal()
            here = value[int(names[at]) :][:1] if is_position else value
            waiting.extend((element, at + is_position) for element in here)
        elif isinstance(value, dict) and at < len(names):
            ends = ((".".join(names[at:end]), end) for end in range(at + 1, len(names) + 1))
            waiting.extend((value[name], end) for name, end in ends if name in value)
        elif value == ANY_TEXT or (at == len(names) and not isinstance(value, dict)):
            yield value if isinstance(value, str) else json.dumps(value)


def as_text(value: object) -> "str | None":
    """Return a text, or a whole number's digits; None for anything else."""
    is_number = isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 64
    return value if isinstance(value, str) else str(value) if is_number else None


def all_texts(values: list[Any]) -> Iterator[str]:
    """Yield every text in these values, at any depth; not the names of members."""
    while values:
        value = values.pop()
        if isinstance(value, str):
            yield value
        else:
            values.extend(value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())


def moment(text: str) -> datetime:
    """Return the time that a text says, RFC 3339."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))  # noqa: FURB162 - Python 3.10 takes no Z


def is_regular(path: Path) -> bool:
    """Return whether a file is one that can be read: no symbolic link, FIFO or device."""
    return path.is_file() and not path.is_symlink()


def is_folder(path: Path) -> bool:
    """Return whether something is a directory itself, and no link to one."""
    return path.is_dir() and not path.is_symlink()


class Seals:
    """What a log's manifest and checksum files say of its sealed segments, held against the lines of its chain."""

    def __init__(self, log: Path) -> None:
        """Read the manifest, if there is one, and the checksum files."""
        entries = json.loads(file.read_bytes())["segments"] if (file := log / "manifest.json").exists() else []
        self.begins = {entry["first_seq"]: entry for entry in entries}
        self.ends = {entry["last_seq"]: entry for entry in entries}
        self.checksums = {path.name: path.read_text() for path in log.glob("*.audit.sha256")}
        self.digest = sha256()
        self.is_whole = False  # the segment's first line was among the lines

    def check(self, line: bytes, seq: int, linked: bytes, own: bytes) -> Iterator[str]:
        """Take the next line of the chain; give what is wrong where a segment begins or ends with it."""
        if (entry := self.begins.get(seq)) is not None:
            self.digest, self.is_whole = sha256(), True
            if entry["prev_hash"].encode() != linked:
                yield f"{entry['segment']}: manifest.json says that another record comes before it"
        self.digest.update(line)
        if (entry := self.ends.get(seq)) is not None:
            digest, name = self.digest.hexdigest(), entry["segment"]
            if entry["hash"].encode() != own or (self.is_whole and digest != entry["sha256"]):
                yield f"{name}: not what manifest.json says"
            if self.is_whole and self.checksums.get(f"{name}.sha256") not in {None, f"{digest}  {name}\n"}:
                yield f"{name}: not what its .sha256 says"


def lines_of(path: Path) -> Iterator[bytes]:
    """Give the lines of a file; they end at a line feed and nowhere else."""
    with path.open("rb") as file:
        while line := file.readline(LONGEST_LINE):
            yield line


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def say(text: str) -> None:
    """Print a line; a terminal gets nothing of a file or of its name but printable ASCII."""
    sys.stdout.write(ascii(text)[1:-1].replace("\\\\", "\\").replace("\\'", "'") + "\n")


def find_logs(here: Path) -> "Iterator[tuple[Path, bool]]":
    """Yield the directories of logs, and whether the one above names the service; follows no link."""

    def fail(error: OSError) -> None:
        raise error

    for folder, folders, files in os.walk(here, onerror=fail):
        folders.sort()
        if {"log.json", "manifest.json"} & {*files, *folders} or any(map(SEGMENT.fullmatch, [*files, *folders])):
            folders.clear()
            yield Path(folder), len(Path(folder).relative_to(here).parts) >= 2


def main(arguments: list[str]) -> int:
    """Check what the arguments name; return the exit status."""
    here = Path(*arguments)
    findings, not_checked, checks = list[str](), list[str](), list[LogCheck]()
    is_bundle = is_regular(here / "bundle.json")
    try:
        if is_bundle:
            findings.extend(check_bundle(here))
        for place, is_service_known in [] if is_bundle else find_logs(here):
            checks.append(LogCheck(place))
            try:
                checks[-1].run(is_service_known=is_service_known)
            except OSError as error:
                not_checked.append(f"{place}: can't be read: {error.strerror}")
            except Exception as error:  # noqa: BLE001 - whatever is damaged, the other logs are still checked
                findings.append(f"{place}: cannot be checked: {error!r}")
            findings += checks[-1].findings
            not_checked += checks[-1].not_checked
        findings.extend(compare_logs(checks))
    except OSError as error:
        if checks or not isinstance(error, FileNotFoundError | NotADirectoryError):
            not_checked.append(f"{here}: can't be read: {error.strerror}")
    except Exception as error:  # noqa: BLE001 - what was found before an error is kept
        findings.append(f"{here}: cannot be checked: {error!r}")
    for text in findings + not_checked:
        say(text)
    if not (is_bundle or checks or not_checked):
        sys.stdout.write(str(__doc__))
        return 2
    return 1 if findings else 3 if not_checked else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
