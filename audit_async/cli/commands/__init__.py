"""The commands of `audit-async`, a module for each, named after it."""
