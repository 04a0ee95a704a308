"""Tests of the room `chain`."""
