"""Making events harmless: misleading text, values that JSON can't hold, sizes without a bound.

Secrets are the subject of `_redact`.
"""
