"""What a record looks like to its receiver: the record itself, OCSF, ECS or CEF.

A format makes one message of one recorded line, and nothing else: which records, how they are sent and when is for the
rest of `audit_async.delivery`. Each format keeps the record's `audit_id`, its place in the chain and its hash, so that
a receiver's copy can be compared with the trail. A sealed member stays sealed.
"""

from __future__ import annotations

from audit_async.delivery.siem_formats.cef_format import CefFormat
from audit_async.delivery.siem_formats.ecs_format import EcsFormat
from audit_async.delivery.siem_formats.ocsf_classes import OCSF_VERSION, OcsfClass
from audit_async.delivery.siem_formats.ocsf_format import OcsfFormat
from audit_async.delivery.siem_formats.ocsf_mapping import OcsfMapping
from audit_async.delivery.siem_formats.ocsf_members import (
    Activity,
    Actor,
    Address,
    MemberRule,
    Number,
    Resource,
    Result,
    SeverityText,
    Status,
    Text,
    Texts,
)

__all__ = [
    "OCSF_VERSION",
    "Activity",
    "Actor",
    "Address",
    "CefFormat",
    "EcsFormat",
    "MemberRule",
    "Number",
    "OcsfClass",
    "OcsfFormat",
    "OcsfMapping",
    "Resource",
    "Result",
    "SeverityText",
    "Status",
    "Text",
    "Texts",
]
