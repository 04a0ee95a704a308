"""Which permission each route needs; a route that is not listed is refused for everybody."""

from __future__ import annotations

from typing import Final

from audit_async.viewer.people import Permission

__all__ = ["ROUTE_PERMISSIONS"]

#: By the name of the route. None: whoever is signed in.
ROUTE_PERMISSIONS: Final[dict[str, Permission | None]] = {
    "home": None,
    "help": None,
    "records": "see_records",
    "record_counts": "see_records",
    "live": "see_records",
    "stream": "see_records",
    "record": "see_records",
    "audit_id": "see_records",
    "trail": "see_records",
    "logs": "see_logs",
    "log": "see_logs",
    "verification": "verify",
    "start_verification": "verify",
    "holds": "see_logs",
    "download": "download",
    "proof": "download",
}
