"""The tests: each states one promise to a user."""
