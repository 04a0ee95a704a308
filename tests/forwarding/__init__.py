"""Bringing records to engines outside the host."""
