"""`audit-async deliver` as it runs on a host: a process next to the services, ended by signals and by power cuts."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import anyio
import pytest

from tests.campaign import Campaign
from tests.cli.commands import COMMAND, Audit, Ended, run_in_pipes
from tests.delivery.delivering import lines_of_log, write_trail
from tests.delivery.http_receiver import check_received
from tests.ports import free_port
from tests.processes import started, wait_until
from tests.trails import check_trail, read_events

OWN = Path("audit/audit-deliver/00")


def write(tmp_path: Path, events: int = 20, service: str = "orders", first: int = 0) -> Path:
    """Write a session of a log; return its directory."""
    return anyio.run(write_trail, tmp_path / "audit", events, service, first)


def configure(tmp_path: Path, *sinks: str) -> Path:
    """Write the sinks into a file."""
    path = tmp_path / "deliver.toml"
    head = f'base_dir = "{tmp_path / "audit"}"\nstate_dir = "{tmp_path / "state"}"\nhost = "web-1"\n'
    path.write_text(head + "".join(f"[[sink]]\n{sink}\n" for sink in sinks))
    return path


def file_sink(tmp_path: Path, more: str = "") -> str:
    """Return a sink that is a file."""
    return f'name = "out"\ntype = "file"\npath = "{tmp_path / "out.ndjson"}"\nservices = ["orders"]\n{more}'


def deliver(config: Path, *more: str) -> Ended:
    """Run the command to its end."""
    return run_in_pipes("deliver", "--config", config, *more)


@contextmanager
def running(config: Path, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a deliverer, killed at the end."""
    command = [*COMMAND, "deliver", "--config", str(config), *more]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        yield process


def delivered(tmp_path: Path) -> list[bytes]:
    """Return what is in the file."""
    path = tmp_path / "out.ndjson"
    return path.read_bytes().splitlines() if path.exists() else []


def test_check_names_the_trail_and_the_secrets_that_are_missing(
    tmp_path: Path, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this process can't read is named, secrets with their sink; what it can is not, nor ever a secret's value."""
    monkeypatch.delenv("NEWCOMERS_KEY", raising=False)
    http = 'name = "siem"\ntype = "http"\nurl = "https://siem.example/"\n'
    secrets = f'token = "file:{tmp_path / "token"}"\nhmac_key = "env:NEWCOMERS_KEY"\n'
    config = configure(tmp_path, http + secrets)
    checked = audit("deliver", "--config", config, "--check")
    assert checked.status == 0
    assert f"base_dir: {tmp_path / 'audit'} can't be read" in checked.err
    write(tmp_path)
    checked = audit("deliver", "--config", config, "--check")
    assert checked.status == 0
    assert "base_dir" not in checked.err
    assert "sink siem: hmac_key" in checked.err
    assert "NEWCOMERS_KEY" in checked.err
    assert "sink siem: token" in checked.err
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text("s3cret")
    monkeypatch.setenv("NEWCOMERS_KEY", "s3cret")
    checked = audit("deliver", "--config", config, "--check")
    assert (checked.status, checked.err) == (0, "")
    monkeypatch.delitem(sys.modules, "audit_async.tlog.signing_keys", raising=False)
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    without = audit("deliver", "--config", config, "--check")
    assert (without.status, "pip install 'audit-async[cli,deliver]'" in without.err) == (2, True)


def test_once_status_check_and_reconcile(tmp_path: Path, audit: Audit) -> None:
    """What is there is delivered; before and after the status says how far, and what the file has is compared."""
    directory = write(tmp_path)
    config = configure(tmp_path, file_sink(tmp_path))
    checked = audit("deliver", "--config", config, "--check")
    assert (checked.out.count("file"), checked.err) == (1, "")
    [before] = audit("deliver", "--config", config, "--status", "--json").document["deliveries"]
    assert (before["state"], before["lag_records"], before["position_seq"]) == ("not running", 22, -1)
    once = audit("deliver", "--config", config, "--once")
    assert once.status == 0, once.err
    assert delivered(tmp_path) == lines_of_log(directory)
    [after] = audit("deliver", "--config", config, "--status", "--json").document["deliveries"]
    assert (after["state"], after["lag_records"], after["delivered"]) == ("caught up", 0, 22)
    table = run_in_pipes("deliver", "--config", config, "--status", COLUMNS="80")
    assert "caught up" in table.out
    assert all(len(line) <= 80 for line in table.out.splitlines())
    same = audit("deliver", "--config", config, "--reconcile")
    assert (same.status, "has all" in same.out) == (0, True), same.err
    lines = delivered(tmp_path)
    (tmp_path / "out.ndjson").write_bytes(b"".join(line + b"\n" for line in lines[:7] + lines[8:]))
    lacks = audit("deliver", "--config", config, "--reconcile", "--json")
    assert lacks.status == 1
    [found] = lacks.document["sinks"]
    assert (found["sent"], found["found"], found["missing_seq"], found["last_is_there"]) == (22, 21, 7, True)
    kinds = [one["event"].get("kind") for one in read_events(tmp_path / OWN)]
    assert "count_differs" in kinds


def test_replay_by_number_by_time_and_to_the_end(tmp_path: Path, audit: Audit) -> None:
    """The records come again from there on; it is recorded who asked; a running deliverer is in the way."""
    directory = write(tmp_path)
    config = configure(tmp_path, file_sink(tmp_path))
    assert audit("deliver", "--config", config, "--once").status == 0
    again = audit("deliver", "--config", config, "--replay-from", "10", "--sink", "out", "--as", "R. Roe")
    assert again.status == 0, again.err
    assert audit("deliver", "--config", config, "--once").status == 0
    lines = lines_of_log(directory)
    assert delivered(tmp_path) == lines + lines[10:]
    moment = json.loads(lines[15])["timestamp"]
    first = next(n for n, line in enumerate(lines) if json.loads(line)["timestamp"] >= moment)
    spelt = audit("replay", "--config", config, "--from", moment, "--sink", "out", "--as", "R. Roe")
    assert (spelt.status, f"from record {first} on" in spelt.out) == (0, True), spelt.err
    assert audit("deliver", "--config", config, "--once").status == 0
    assert delivered(tmp_path) == lines + lines[10:] + lines[first:]
    write(tmp_path, 5, first=20)
    end = audit("deliver", "--config", config, "--replay-from", "end", "--sink", "out", "--json")
    assert end.document["logs"][0]["from_seq"] == 29
    assert audit("deliver", "--config", config, "--once").status == 0
    assert delivered(tmp_path) == lines + lines[10:] + lines[first:]
    events = [one["event"] for one in read_events(tmp_path / OWN)]
    replays = [event for event in events if event["event_type"] == "audit.delivery_replayed"]
    first_replay = replays[0]
    assert [event.get("requested_by") for event in replays] == ["R. Roe", "R. Roe", None]
    assert (first_replay["from_seq"], first_replay["before_seq"]) == (10, 21)
    assert first_replay["requested_by"] == "R. Roe"
    assert len(replays) == 3
    too_far = audit("deliver", "--config", config, "--replay-from", "99", "--sink", "out")
    assert (too_far.status, "no record 99" in too_far.err) == (3, True)
    with running(config) as process:
        assert process.stderr is not None
        process.stderr.readline()
        wait_until(lambda: audit("deliver", "--config", config, "--replay-from", "0", "--sink", "out").status == 3)
    check_trail(tmp_path / OWN)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--once", "--status"),
        ("--replay-from", "0"),
        ("--sink", "out"),
        ("--listen", "9465"),
        ("--once", "--listen", "127.0.0.1:0"),
        ("--reconcile", "--sink", "no-such-sink"),
        ("--service", "orders"),
        ("--replay-from", "whenever", "--sink", "out"),
    ],
)
def test_wrong_usage_is_said_before_anything_happens(tmp_path: Path, audit: Audit, arguments: tuple[str, ...]) -> None:
    """Status 2, and no state."""
    write(tmp_path, 1)
    ended = audit("deliver", "--config", configure(tmp_path, file_sink(tmp_path)), *arguments)
    assert ended.status == 2, ended.err
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name = "a"\ntype = "carrier-pigeon"', "http"),
        ('name = "a"\ntype = "http"\nurl = "https://siem.example"\ntoken = "abcdefg"', "never the secret itself"),
        ('name = "a"\ntype = "stdout"\nformmat = "record"', "did you mean format"),
        ('name = "a"\ntype = "stdout"\nunseal = true', "key_store"),
        ('name = "a"\ntype = "stdout"\n[[sink]]\nname = "a"\ntype = "stdout"', "two sinks"),
        ('name = "a"\ntype = "stdout"\nselect = {actr = "alice"}', "actor"),
    ],
)
def test_a_wrong_configuration_names_the_file_and_what_is_allowed(
    tmp_path: Path, audit: Audit, text: str, said: str
) -> None:
    """Status 2; a secret in the wrong place is not shown."""
    config = configure(tmp_path, text)
    ended = audit("deliver", "--config", config, "--check")
    assert ended.status == 2
    assert said in ended.err
    assert str(config) in ended.err.replace("\n", "")
    assert "abcdefg" not in ended.err


def test_it_runs_until_a_signal_and_answers_for_monitoring(tmp_path: Path) -> None:
    """Metrics and health while it runs; SIGTERM ends it in order, with status 0, and its own log is closed."""
    directory = write(tmp_path)
    config = configure(tmp_path, file_sink(tmp_path))
    with running(config, "--listen", "127.0.0.1:0") as process:
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        address = re.search(r"http://(127\.0\.0\.1:\d+)/metrics", line)
        assert address is not None, line
        wait_until(lambda: len(delivered(tmp_path)) == 22)

        def get(path: str) -> str:
            with urllib.request.urlopen(f"http://{address[1]}{path}", timeout=60) as answer:
                text: str = answer.read().decode()
                return text

        wait_until(lambda: 'audit_deliver_state{sink="out",state="caught up"} 1.0' in get("/metrics"))
        text = get("/metrics")
        assert re.search(r'audit_deliver_lag_records\{.*service="orders".*sink="out"\} 0\.0', text)
        assert re.search(r"audit_deliver_delivered_records_total\{.*\} 22\.0", text)
        assert "audit_deliver_lag_seconds" in text
        assert json.loads(get("/health")) == {"status": "ok", "sinks": []}
        write(tmp_path, 5, first=20)
        wait_until(lambda: len(delivered(tmp_path)) == 29)
        [status] = deliver(config, "--status", "--json").document["deliveries"]
        assert (status["lag_records"], status["state"]) == (0, "caught up")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert delivered(tmp_path) == lines_of_log(directory)
    check_trail(tmp_path / OWN)
    assert read_events(tmp_path / OWN)[-1]["event"]["event_type"] == "audit.log_closed"


def test_a_delivery_that_stands_still_is_no_success(tmp_path: Path, audit: Audit) -> None:
    """Status 1 if a person has to act, 3 if the receiver can't be reached; as the command ends, and in --status."""
    [segment] = write(tmp_path).glob("*.audit")
    http = f'name = "siem"\ntype = "http"\nurl = "http://127.0.0.1:{free_port()}/"\nservices = ["orders"]\n'
    config = configure(tmp_path, http)
    assert audit("deliver", "--config", config, "--once").status == 3
    assert audit("deliver", "--config", config, "--status").status == 3
    config = configure(tmp_path, file_sink(tmp_path))
    segment.write_bytes(segment.read_bytes().replace(b"mallory", b"mallorx", 1))
    ended = audit("deliver", "--config", config, "--once")
    assert (ended.status, "unreadable" in ended.out) == (1, True), ended
    assert audit("deliver", "--config", config, "--status").status == 1


def test_the_status_has_the_logs_that_a_sink_reads(tmp_path: Path, audit: Audit) -> None:
    """Alerts are not looked for in the deliverer's own log, so nothing of it can ever be due there."""
    write(tmp_path)
    config = configure(tmp_path, 'name = "alerts"\ntype = "alerts"', file_sink(tmp_path))
    assert audit("deliver", "--config", config, "--once").status == 0
    rows = audit("deliver", "--config", config, "--status", "--json").document["deliveries"]
    shown = {(row["sink"], row["service"], row["state"]) for row in rows}
    assert shown == {("alerts", "orders", "caught up"), ("out", "orders", "caught up")}


def test_standard_output_has_the_records(tmp_path: Path) -> None:
    """A line each, for a container's log; remarks go to standard error."""
    directory = write(tmp_path)
    ended = deliver(configure(tmp_path, 'name = "out"\ntype = "stdout"\nservices = ["orders"]'), "--once", "--json")
    lines = ended.out.encode().splitlines()
    assert lines[:22] == lines_of_log(directory)


# -- crashes ----------------------------------------------------------------------------------------------------------


@contextmanager
def receiver(port: int, file: Path, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a receiver as a process of its own."""
    command = [sys.executable, "-m", "tests.delivery.http_receiver", str(port), str(file), *more]
    with started(command) as process:
        yield process


def http_sink(port: int, kind: str) -> str:
    """Return a sink of a receiver on this machine."""
    more = 'payload = "ndjson"\n' if kind == "http" else ""
    return (
        f'name = "siem"\ntype = "{kind}"\nurl = "http://127.0.0.1:{port}/"\nservices = ["orders"]\n{more}'
        "max_records = 7\ntimeout_s = 5\n"
    )


def crash(tmp_path: Path, kind: str, whom: str, seed: int, kills: int) -> None:
    """Kill the deliverer, or the receiver, again and again while records are written and delivered."""
    chance = random.Random(seed)  # noqa: S311 - when somebody is killed
    port, out = free_port(), tmp_path / "received"
    config = configure(tmp_path, http_sink(port, kind))
    directory, more = write(tmp_path, 30), ("otlp",) if kind == "otlp" else ()

    def received() -> list[bytes]:
        # What a kill has left of a line was never confirmed.
        return out.read_bytes().rpartition(b"\n")[0].splitlines() if out.exists() else []

    def received_by() -> AbstractContextManager[subprocess.Popen[bytes]]:
        return receiver(port, out, *more)

    def delivered_by() -> AbstractContextManager[subprocess.Popen[bytes]]:
        return running(config)

    def more_than(before: int) -> None:
        wait_until(lambda: len(received()) > before)

    stays, starts = (received_by, delivered_by) if whom == "deliverer" else (delivered_by, received_by)
    with stays():
        for number in range(kills):
            with starts() as process:
                more_than(len(received()))
                time.sleep(chance.uniform(0, 0.05))
                process.kill()
            write(tmp_path, 30, first=30 * (number + 1))
            if out.exists() and not out.read_bytes().endswith(b"\n"):
                out.write_bytes(b"".join(line + b"\n" for line in received()))
        wanted = lines_of_log(directory)
        with starts():
            wait_until(lambda: set(wanted) <= set(received()))
    check_received(received(), wanted)


@pytest.mark.parametrize(("kind", "whom"), [("http", "deliverer"), ("otlp", "receiver")])
def test_nothing_is_missing_after_kill_9(tmp_path: Path, kind: str, whom: str) -> None:
    """A sample of the campaign: what comes twice is the same record, byte by byte."""
    crash(tmp_path, kind, whom, seed=1, kills=2)


@pytest.mark.campaign
@pytest.mark.parametrize("whom", ["deliverer", "receiver"])
@pytest.mark.parametrize("kind", ["http", "otlp"])
def test_thirty_times_kill_9(tmp_path: Path, campaign: Campaign, kind: str, whom: str) -> None:
    """Of each, with receivers of each kind that confirms."""
    crash(tmp_path, kind, whom, seed=campaign.seed, kills=30)
