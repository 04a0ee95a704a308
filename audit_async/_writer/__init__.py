"""The writing half: from `emit()` to a durable record.

Encoder, buffer, writer, sync schedule, receipts, session, signals, forks, the disk thread and the daily tasks. Files
are the subject of `_store`; what users call is `audit_async.logger`.
"""
