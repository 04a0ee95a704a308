"""Tests of `audit_async.reports`."""
