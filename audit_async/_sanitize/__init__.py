"""Making events harmless: misleading text, values that JSON has no place for, sizes without a bound.

Secrets are the subject of `_redact`.
"""
