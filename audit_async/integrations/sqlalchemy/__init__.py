"""SQLAlchemy 2: what sessions change, before and after, and whether it was committed.

Two lines are added to a service: `set_audit(audit)`, and `audit_session(sessions, [Order, Customer])`. Needs the
extra `sqlalchemy`.
"""

from audit_async._first_use import installed_by

with installed_by("audit-async[sqlalchemy]", __name__):
    from audit_async.integrations.sqlalchemy.commit_barrier import IntentNotDurable
    from audit_async.integrations.sqlalchemy.crash_resolution import Resolution, marker_table, resolve_unfinished
    from audit_async.integrations.sqlalchemy.session_audit import SessionAudit, audit_session

__all__ = ["IntentNotDurable", "Resolution", "SessionAudit", "audit_session", "marker_table", "resolve_unfinished"]
