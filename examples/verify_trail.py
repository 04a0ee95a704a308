"""Check audit trails with nothing but Python: `python verify_trail.py DIRECTORY` (a log, or a tree of logs).

Exit status: 0 all holds, 1 findings, 2 nothing to verify. A chain cannot show by itself that its newest records
were cut off, or that all of it was written anew: compare the head printed here with one kept elsewhere.
"""

import json
import re
import sys
from hashlib import sha256
from pathlib import Path

RECORD = re.compile(
    rb'{"seq":(0|[1-9]\d{0,17}),"audit_id":"[\da-f]{16}-[\da-f]+","timestamp":"[-\d]{10}T[:\d]{8}\.\d{6}Z","servi'
    rb'ce_id":"[^"]+","event":{"event_type":"([^"]+)"[^\0-\x1f]*},"prev_hash":"([\da-f]{64})","hash":"([\da-f]{64})"}\n'
)


def check_log(log: Path) -> list[str]:
    """Print the head of the log in a directory; return its findings. Reading stops at a hundred of them."""
    findings, due, prev, kind, expected = list[str](), 0, b"0" * 64, b"", dict[int, bytes]()
    entries = json.loads(file.read_bytes())["segments"] if (file := log / "manifest.json").exists() else []
    gone = {entry["first_seq"]: entry for entry in entries if entry["state"] in {"archived", "deleted"}}
    for path in sorted(log.glob("*.audit")):
        first, number, digest = int(re.sub(r"-\d{4}-\d\d-\d\d\.audit\Z", "", path.name)), 0, sha256()
        while due != first and due in gone:
            print(f"{log}: seq {due} on is {gone[due]['state']!a}: not read here (zstd), joined by the manifest's hash")
            due, prev = gone[due]["last_seq"] + 1, gone.pop(due)["hash"].encode()
        if due != first:  # a gap; or copies, left by a failed fsync: then this head must come again
            expected[due], due, prev = prev, first, b""
        with path.open("rb") as segment:
            while len(findings) < 100 and (line := segment.readline(1 << 26)):
                number += 1
                digest.update(line)
                record = RECORD.fullmatch(line)
                seq = int(record[1]) if record else due
                kind, linked, own = record.group(2, 3, 4) if record else (b"", b"", b"")
                whole = sha256(line[:-76] + b"}").hexdigest().encode() == own
                if not whole or seq != due or prev not in {b"", linked} or expected.pop(seq + 1, own) != own:
                    reason = f"seq {seq} does not follow the record before" if whole else "its hash is not its own"
                    findings.append(f"{path}:{number}: {reason if record else 'not a whole record'}")
                due, prev = seq + 1, own
        if (seal := Path(f"{path}.sha256")).exists() and seal.read_text() != f"{digest.hexdigest()}  {path.name}\n":
            findings.append(f"{path}: not what its .sha256 says")
    findings += [f"{log}: no records"] * (due == 0)
    state = "closed" if kind == b"audit.log_closed" else "no audit.log_closed: in use, or not shut down cleanly"
    print(f"{log}: head: seq {due - 1}, hash {prev.decode()} ({state})")
    return findings + [f"{log}: records are missing from seq {seq}, or are not what copies say" for seq in expected]


if __name__ == "__main__":
    logs, found = sorted(path.parent for path in Path(*sys.argv[1:]).rglob("log.json")), list[str]()
    for log in logs:
        try:
            found += check_log(log)
        except Exception as error:  # noqa: BLE001 - whatever is damaged, the other logs are still checked
            found.append(f"{log}: cannot be checked: {error!r}")
    sys.stdout.write("".join(f"{text}\n" for text in found) if logs else str(__doc__))
    sys.exit(2 if not logs else 1 if found else 0)
