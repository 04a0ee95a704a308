"""What every test of the writing half may use."""

from tests.store.chained import in_memory

__all__ = ["in_memory"]
