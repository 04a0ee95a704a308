"""A Django project for tests: a shop, whose orders are recorded."""
