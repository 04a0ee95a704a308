"""Changes of a service's configuration."""

from __future__ import annotations

from typing import ClassVar

from audit_async.events.base import ActorInfo, AuditEvent, ResourceInfo
from audit_async.events.resources import Changes


class ConfigChanged(AuditEvent, tag="config.changed"):
    """A setting was changed; never a secret, which is left out or whose name the redactor knows. Critical."""

    critical: ClassVar[bool] = True

    actor: ActorInfo
    resource: ResourceInfo
    changes: Changes
