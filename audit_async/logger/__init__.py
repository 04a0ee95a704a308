"""The front door for writing: `AuditLogger`, its life cycle, and `run`.

What an open log consists of is in `audit_async._writer.session`.

Everything that applications need is imported from this package; its modules are implementation details:

| module | subject |
| --- | --- |
| `audit_logger` | `AuditLogger`: what can be recorded and asked for, and what each call promises |
| `erasure_calls` | a part of it: erasures that wait for a time, or for a second person |
| `blocking_calls` | a part of `SyncAuditLogger`: the same calls for threads without an event loop |
| `open_session` | what only an open log can do, and the errors if it is not open or not configured for it |
| `log_reports` | what a log says of itself: counters and health |
| `config_mistakes` | what to pass to `AuditLogger` instead of what was passed |
| `loop_choice` | running a service on the fastest event loop |
"""

from audit_async.logger.audit_logger import AuditLogger
from audit_async.logger.loop_choice import run

__all__ = ["AuditLogger", "run"]
