"""What `examples/deploy/` and docs/operations.md promise to whoever runs a service."""
