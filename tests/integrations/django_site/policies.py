"""What the project records of requests in some tests."""

from audit_async.integrations.django import Policy, Rule

WITH_BODIES = Policy([Rule("/echo/**", level="request_response")], default="none")
WITH_STARTS = Policy([Rule("/plain/**", level="metadata", begin=True)])
