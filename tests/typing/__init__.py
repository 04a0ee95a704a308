"""The public API as a user writes it: mypy --strict checks these modules, and the types that users see are asserted."""
