"""What every test of the transparency log may use."""

from tests.store.chained import in_memory

__all__ = ["in_memory"]
