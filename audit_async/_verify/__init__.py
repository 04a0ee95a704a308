"""Judging a trail: whether it is what was written. It works beside a running writer, without a lock.

Its front door is `audit_async.reader`.
"""
