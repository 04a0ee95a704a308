"""A receiver to try a deliverer with: it checks the signature of each request, and prints what came.

    WEBHOOK_KEY=... python webhook_receiver.py PORT

An endpoint that calls somebody does the same: check the signature, store or pass on, and only then answer 200. What is
answered otherwise comes again, and after a crash of the deliverer some records come a second time; `audit_id` tells.
"""

import gzip
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from audit_async.delivery import verify_signature

KEY = os.environ["WEBHOOK_KEY"].encode()
LARGEST_BYTES = 64 * 1024 * 1024


class Receiver(BaseHTTPRequestHandler):
    """Takes records, one a line."""

    def do_POST(self) -> None:
        """Print the records of a request that has the right signature; refuse any other."""
        length = int(self.headers.get("Content-Length", 0))
        if length > LARGEST_BYTES:
            self.send_error(413)
            return
        body = self.rfile.read(length)
        if not verify_signature(self.headers.get("Audit-Signature", ""), body, key=KEY, tolerance_s=300):
            self.send_error(401, "the signature is missing, wrong or old")
            return
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        for line in body.splitlines():
            print(self.path, summary(json.loads(line)), flush=True)
        self.send_response(200)
        self.end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Print nothing of requests that were taken."""


def summary(record: dict[str, Any]) -> str:
    """Return a line about a record: of an alert what somebody has to know, of another one its type."""
    event = record.get("event")
    if event is None:  # OCSF
        return f"{record['class_name']}: {record.get('message', record['activity_name'])}"
    if event["event_type"] == "audit.alert_raised":
        return f"ALERT {event['severity']} {event['rule']}: {event['reason']} ({event['log']})"
    return str(event["event_type"])


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver) as server:
        server.serve_forever()
