"""Judging a trail: whether it is what was written. It needs no lock and works next to a running writer.

Everything that it can find or note is in `findings`; its front door is `audit_async.reader`.
"""
