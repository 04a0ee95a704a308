"""Check audit trails with nothing but Python: `python verify_trail.py PATH`.

PATH is a log, a tree of logs, or the folder of an unpacked evidence bundle. Exit status: 0 all holds, 1 findings, 2
nothing to verify. A chain cannot show by itself that its newest records were cut off, or that all of it was written
anew: compare the head printed here with one kept elsewhere.
"""

# This file is put into every evidence bundle, so it must run alone, and be short enough to be read by its auditor.

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any

__all__ = ["check_bundle", "check_log", "main"]

RECORD = re.compile(
    rb'{"seq":(0|[1-9]\d{0,17}),"audit_id":"[\da-f]{16}-[\da-f]+","timestamp":"[-\d]{10}T[:\d]{8}\.\d{6}Z","servi'
    rb'ce_id":"[^"]+","event":{"event_type":"([^"]+)"[^\0-\x1f]*},"prev_hash":"([\da-f]{64})","hash":"([\da-f]{64})"}\n'
)
LONGEST_LINE = 1 << 26


def is_whole(line: bytes, own_hash: bytes) -> bool:
    """Return whether a line hashes to what it says: the SHA-256 of the line without its member `hash`."""
    return sha256(line[:-76] + b"}").hexdigest().encode() == own_hash


def check_log(log: Path) -> list[str]:
    """Print the head of the log in a directory; return its findings. Reading stops at a hundred of them."""
    findings, due, prev, kind, expected = list[str](), 0, b"0" * 64, b"", dict[int, bytes]()
    entries = json.loads(file.read_bytes())["segments"] if (file := log / "manifest.json").exists() else []
    gone = {entry["first_seq"]: entry for entry in entries if entry.get("state") in {"archived", "deleted"}}
    for path in sorted(log.glob("*.audit")):
        first, number, digest = int(re.sub(r"-\d{4}-\d\d-\d\d\.audit\Z", "", path.name)), 0, sha256()
        while due != first and due in gone:
            say(f"{log}: seq {due} on is {gone[due]['state']!a}: not read here (zstd), joined by the manifest's hash")
            due, prev = gone[due]["last_seq"] + 1, gone.pop(due)["hash"].encode()
        if due != first:  # a gap; or copies, left by a failed fsync: then this head must come again
            expected[due], due, prev = prev, first, b""
        with path.open("rb") as segment:
            while len(findings) < 100 and (line := segment.readline(LONGEST_LINE)):
                number += 1
                digest.update(line)
                record = RECORD.fullmatch(line)
                seq = int(record[1]) if record else due
                kind, linked, own = record.group(2, 3, 4) if record else (b"", b"", b"")
                whole = is_whole(line, own)
                if not whole or seq != due or prev not in {b"", linked} or expected.pop(seq + 1, own) != own:
                    reason = f"seq {seq} does not follow the record before" if whole else "its hash is not its own"
                    findings.append(f"{path}:{number}: {reason if record else 'not a whole record'}")
                due, prev = seq + 1, own
        if (seal := Path(f"{path}.sha256")).exists() and seal.read_text() != f"{digest.hexdigest()}  {path.name}\n":
            findings.append(f"{path}: not what its .sha256 says")
    findings += [f"{log}: no records"] * (due == 0)
    state = "closed" if kind == b"audit.log_closed" else "no audit.log_closed: in use, or not shut down cleanly"
    say(f"{log}: head: seq {due - 1}, hash {prev.decode()} ({state})")
    return findings + [f"{log}: records are missing from seq {seq}, or are not what copies say" for seq in expected]


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
        if record and is_exported != query.asks_for(line):
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
    """What the records of a bundle were asked for with; it decides as the export did."""

    def __init__(self, contents: dict[str, Any]) -> None:
        """Read `query` of bundle.json, and how its texts are recorded if they hold unsafe characters."""
        self.asked: dict[str, Any] = contents["query"]
        self.recorded_as: dict[str, str] = contents.get("recorded_as", {})
        self.critical_types: list[str] = contents.get("critical_types", [])
        unknown = set(self.asked) - QUERY_MEMBERS
        if unknown:
            raise ValueError(f"bundle.json asks for what this verifier does not know: {sorted(unknown)}")

    def asks_for(self, line: bytes) -> bool:
        """Return whether a record of the chain was asked for."""
        record = json.loads(line)
        event, context, asked = record["event"], record.get("context", {}), self.asked
        kind, after = event["event_type"], asked.get("after_seq", -1)
        types, texts = asked.get("event_types", []), [event, context]
        return (
            record["seq"] > after
            and (not types or any(fnmatchcase(kind, pattern) for pattern in types))
            and asked.get("critical", kind in self.critical_types) == (kind in self.critical_types)
            and ("start" not in asked or moment(record["timestamp"]) >= moment(asked["start"]))
            and ("end" not in asked or moment(record["timestamp"]) < moment(asked["end"]))
            and ("actor" not in asked or self.is_among(asked["actor"], actors_of(event)))
            and ("resource_id" not in asked or self.is_among(asked["resource_id"], resources_of(event)))
            and all(self.is_among(v, [as_text(context.get(k))]) for k, v in asked.get("context", {}).items())
            and ("text" not in asked or any(self.holds(asked["text"], text) for text in all_texts(texts)))
        )

    def is_among(self, wanted: str, named: "Iterable[str | None]") -> bool:
        """Return whether a text, or its recorded form, is one of those."""
        return not {wanted, self.recorded_as.get(wanted, wanted)}.isdisjoint(named)

    def holds(self, wanted: str, text: str) -> bool:
        """Return whether a text holds another, or its recorded form."""
        return wanted in text or self.recorded_as.get(wanted, wanted) in text


QUERY_MEMBERS = {
    *("actor", "resource_id", "event_types", "start", "end", "critical", "context", "text", "after_seq", "limit"),
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
        """Read the manifest, where there is one, and the checksum files."""
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


def main(arguments: list[str]) -> int:
    """Check what the arguments name; return the exit status."""
    check: Callable[[Path], Iterable[str]]
    here = Path(*arguments)
    if (here / "bundle.json").is_file():
        places, check = [here], check_bundle
    else:
        places, check = [path.parent for path in sorted(here.rglob("log.json"))], check_log
    findings = list[str]()
    for place in places:
        try:
            findings.extend(check(place))  # what was found before an error is kept
        except Exception as error:  # noqa: BLE001 - whatever is damaged, the other logs are still checked
            findings.append(f"{place}: cannot be checked: {error!r}")
    for finding in findings:
        say(finding)
    if not places:
        sys.stdout.write(str(__doc__))
    return 2 if not places else 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
