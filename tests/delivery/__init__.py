"""Tests of `audit_async.delivery`."""
