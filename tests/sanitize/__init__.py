"""Tests of the room `sanitize`."""
