"""Synchronous code: logs without an event loop of the application."""
