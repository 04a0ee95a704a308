"""Programs to read and to run: `python -m examples.quickstart`, `python -m examples.demo` and the others."""
