"""Tests of the room `redact`."""
