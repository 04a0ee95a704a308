"""Tests of the alerts of the deliverer."""
