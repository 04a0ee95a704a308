"""`audit-async serve`, as a process: what it prints, what it refuses, how it ends."""

from __future__ import annotations

import http.client
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import anyio
import pytest

from tests.cli.commands import COMMAND, Audit, environment
from tests.processes import started
from tests.trails import check_trail, read_events
from tests.viewer.trail_to_view import make_trail

_DEADLINE_S = 60


class Serving(NamedTuple):
    """A running command."""

    process: subprocess.Popen[str]
    link: str  #: that signs in

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
        """Return status, headers and body of a page."""
        connection = http.client.HTTPConnection(urlsplit(self.link).netloc, timeout=_DEADLINE_S)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
        finally:
            connection.close()


@contextmanager
def serving(directory: Path, *options: str) -> Iterator[Serving]:
    """Run the command on a free port until the block ends."""
    command = [*COMMAND, "serve", str(directory), "--port", "0", *options]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        yield Serving(process, process.stdout.readline().strip())


def test_the_printed_link_signs_in_and_the_end_is_graceful(tmp_path: Path) -> None:
    """Its log says who has looked and is closed; other names of the host are refused."""
    anyio.run(make_trail, tmp_path)
    config = tmp_path / "orders.toml"
    config.write_text(
        'service_id = "orders"\n[mode]\ntype = "local"\nbase_dir = "."\n[retention]\nmin_retention_days = 40\n'
    )
    with serving(tmp_path, "--as", "olga", "--index", "--config", str(config)) as command:
        path = command.link.removeprefix("http://127.0.0.1:").partition("/")[2]
        status, headers, _ = command.get(f"/{path}")
        assert (status, headers["location"]) == (303, "/")
        cookie = headers["set-cookie"].partition(";")[0]
        status, headers, text = command.get("/records", Cookie=cookie)
        assert status == 200
        assert "orders/00" in text
        assert headers["cache-control"] == "no-store"
        assert "never before 40 days" in command.get("/holds", Cookie=cookie)[2]
        assert command.get("/records", Cookie=cookie, Host="attacker.example")[0] == 400
        command.process.send_signal(signal.SIGTERM)
        out, err = command.process.communicate(timeout=_DEADLINE_S)
    assert command.process.returncode == 0, err
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/sign-in\?token=\S{43}\n", out)  # the next one
    events = [record["event"] for record in read_events(tmp_path / "audit-view")]
    assert [event["event_type"] for event in events] == [
        "audit.log_opened", "auth.success", "audit.log_accessed", "audit.log_closed",
    ]  # fmt: skip
    assert events[2]["actor"] == "olga"
    check_trail(tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "203.0.113.7"], "--tls-cert"),
        (["--host", "::"], "--tls-cert"),
        (["--tls-cert", "cert.pem"], "belong together"),
        (["--proxy-header", "X-User"], "--proxy-header needs --proxy"),
        (["--proxy-header", "X-User", "--proxy", "127.0.0.1"], "--roles"),
        (["--roles", "roles.toml"], "needs --proxy-header or --oidc-issuer"),
        (["--oidc-issuer", "https://login.example", "--oidc-client-id", "x"], "--public-url"),
        (["--oidc-client-id", "x"], "need --oidc-issuer"),
        (["--embed-key", "env:NONE"], "belong together"),
    ],
)
def test_what_would_be_unsafe_is_refused(tmp_path: Path, audit: Audit, options: list[str], said: str) -> None:
    """With what is missing, before anything is listened on."""
    (tmp_path / "orders" / "00").mkdir(parents=True)
    (tmp_path / "orders" / "00" / "log.json").write_text("{}")
    ended = audit("serve", tmp_path, "--port", "0", *options)
    assert ended.status == 2
    assert said in re.sub(r"[\s│]+", " ", ended.err)


def test_a_directory_without_logs_is_said_at_once(tmp_path: Path, audit: Audit) -> None:
    """And nothing is listened on."""
    assert audit("serve", tmp_path, "--port", "0").status == 3


def test_a_log_of_who_looks_that_can_not_be_opened_is_said_in_a_sentence(tmp_path: Path, audit: Audit) -> None:
    """The viewer does not start, and no traceback hides why."""
    anyio.run(make_trail, tmp_path)
    (tmp_path / "audit-view").write_bytes(b"in the way")
    ended = audit("serve", tmp_path, "--port", "0", "--as", "alice")
    assert ended.status == 3
    assert "the log of who looks can't be opened" in ended.err
    assert "serving" not in ended.out + ended.err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[people.bob]\nrole = "reader"\n', "line 2: people.bob.role: a reader needs services or a tenant"),
        ('[people.bob]\nrole = "auditr"\n', "line 2: people.bob.role: is not one of"),
        ('[people.bob]\nrole = "reader"\nservices = "orders"\n', "line 3: people.bob.services: must be a list"),
        ('[people.bob]\nrole = "reader"\nservice = ["orders"]\n', "line 3: people.bob.service: no such key"),
        ('[people.bob]\nrole = "auditor"\ntenant = "acme"\n', "auditor is for all logs"),
        ('[persons.bob]\nrole = "auditor"\n', "persons: no such table of roles; there are people, groups"),
        ("", "gives nobody a role"),
        ("[people.bob\n", "not a TOML file"),
    ],
)
def test_a_wrong_file_of_roles_is_refused_with_its_line(tmp_path: Path, audit: Audit, content: str, said: str) -> None:
    """And the key in it."""
    (tmp_path / "orders" / "00").mkdir(parents=True)
    (tmp_path / "orders" / "00" / "log.json").write_text("{}")
    roles = tmp_path / "roles.toml"
    roles.write_text(content)
    ended = audit("serve", tmp_path, "--port", "0", "--proxy-header", "X-User", "--proxy", "::1", "--roles", roles)
    assert ended.status == 2
    assert said in ended.err
