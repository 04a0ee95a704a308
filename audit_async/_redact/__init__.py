"""Removing secrets from what is recorded: known by their name, or by their form.

Making text harmless is the subject of `_sanitize`.
"""
