"""The classes of OCSF 1.8.0 that records are delivered as, by name, with what each requires.

The names and numbers are those of the published schema (https://schema.ocsf.io/1.8.0/), and the tests hold them to it.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

__all__ = ["OCSF_VERSION", "SEVERITIES", "UNKNOWN", "OcsfClass"]

OCSF_VERSION: Final = "1.8.0"

#: What a required text is if the record does not say it.
UNKNOWN: Final = "Unknown"

#: The names of `severity_id`.
SEVERITIES: Final = {
    0: "Unknown",
    1: "Informational",
    2: "Low",
    3: "Medium",
    4: "High",
    5: "Critical",
    99: "Other",
}


class _ClassInfo(NamedTuple):
    uid: int
    caption: str
    category: str
    #: What the schema calls the class, which for one of them is not what it means.
    name: str


class OcsfClass(Enum):
    """A class of events of OCSF."""

    BASE_EVENT = _ClassInfo(0, "Base Event", "Uncategorized", "base_event")
    PROCESS_ACTIVITY = _ClassInfo(1007, "Process Activity", "System Activity", "process_activity")
    EVENT_LOG_ACTIVITY = _ClassInfo(1008, "Event Log Activity", "System Activity", "event_log_actvity")
    DETECTION_FINDING = _ClassInfo(2004, "Detection Finding", "Findings", "detection_finding")
    ACCOUNT_CHANGE = _ClassInfo(3001, "Account Change", "Identity & Access Management", "account_change")
    AUTHENTICATION = _ClassInfo(3002, "Authentication", "Identity & Access Management", "authentication")
    AUTHORIZE_SESSION = _ClassInfo(3003, "Authorize Session", "Identity & Access Management", "authorize_session")
    ENTITY_MANAGEMENT = _ClassInfo(3004, "Entity Management", "Identity & Access Management", "entity_management")
    USER_ACCESS = _ClassInfo(3005, "User Access Management", "Identity & Access Management", "user_access")
    HTTP_ACTIVITY = _ClassInfo(4002, "HTTP Activity", "Network Activity", "http_activity")
    WEB_RESOURCES_ACTIVITY = _ClassInfo(
        6001, "Web Resources Activity", "Application Activity", "web_resources_activity"
    )
    API_ACTIVITY = _ClassInfo(6003, "API Activity", "Application Activity", "api_activity")
    DATASTORE_ACTIVITY = _ClassInfo(6005, "Datastore Activity", "Application Activity", "datastore_activity")
    FILE_HOSTING = _ClassInfo(6006, "File Hosting Activity", "Application Activity", "file_hosting")
    APPLICATION_ERROR = _ClassInfo(6008, "Application Error", "Application Activity", "application_error")

    @property
    def uid(self) -> int:
        """The number of the class, such as 3002."""
        return self.value.uid

    @property
    def caption(self) -> str:
        """The name for people."""
        return self.value.caption

    @property
    def category_uid(self) -> int:
        """The number of the class's category."""
        return self.value.uid // 1000

    @property
    def category(self) -> str:
        """The name of the class's category."""
        return self.value.category

    @property
    def schema_name(self) -> str:
        """The name of the class in the schema's files."""
        return self.value.name
