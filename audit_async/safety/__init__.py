"""Making events harmless: text that could mislead a reader, values that JSON has no place for, sizes without bound.

This room knows what is unsafe and what becomes of it. What an event means, and where it goes, is not its business.
"""
