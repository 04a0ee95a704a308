"""What is recorded while its own thread opens the log of a Django process: no wait, no uncounted loss."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trails import check_trail, read_events

#: The setting is read by the call that opens the log, so the signal comes, and is handled, in the middle of it.
PROGRAM = """
import signal, sys
from collections.abc import Mapping

import django
from django.conf import settings


class Interrupted(Mapping):
    values = {"service_id": "shop", "mode": {"type": "local", "base_dir": sys.argv[1]}}

    def __iter__(self):
        if not handled:
            signal.raise_signal(signal.SIGUSR1)
        return iter(self.values)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, key):
        return self.values[key]


def event(name):
    return DataDeleted(customer_id=name, data_types=[], reason="r")


def handle(signum, frame):
    handled.append(record_event(event("handler")))


handled = []
signal.signal(signal.SIGUSR1, handle)
settings.configure(AUDIT=Interrupted(), INSTALLED_APPS=["audit_async.integrations.django"])
django.setup()

from audit_async.events import DataDeleted
from audit_async.integrations.django.process_log import open_log, record_event

assert record_event(event("first"))
assert handled == [False]
assert record_event(event("second"))
open_log().close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGUSR1")
def test_a_handler_that_records_while_its_thread_opens_the_log(tmp_path: Path) -> None:
    """Its event is refused and counted; the log is opened once, and has what other calls emit."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    command = [sys.executable, str(path), str(tmp_path / "audit")]
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "is being opened by the call that this one interrupts" in done.stderr
    (directory,) = (tmp_path / "audit/shop").glob("[0-9]*")
    check_trail(directory)
    events = [record["event"] for record in read_events(directory)]
    assert [event["customer_id"] for event in events if "customer_id" in event] == ["first", "second"]
    (dropped,) = (event for event in events if event["event_type"] == "audit.events_dropped")
    assert dropped["count"] == 1
