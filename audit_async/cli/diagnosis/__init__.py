"""What `audit-async doctor` examines: the host, and each log."""
