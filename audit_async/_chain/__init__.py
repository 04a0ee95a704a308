"""The record format and the hash chain: bytes in, verdict out.

This room knows how a line is framed, hashed and linked, and how a good line differs from a bad one. It knows
neither files nor the event loop, and what an event means is not its business.
"""

from audit_async._chain.framer import Batch, Entry, Framer
from audit_async._chain.record_check import BadRecord, CheckedRecord, check_record
from audit_async._chain.record_format import FORMAT_VERSION, GENESIS_HASH, START, Head

__all__ = [
    "FORMAT_VERSION",
    "GENESIS_HASH",
    "START",
    "BadRecord",
    "Batch",
    "CheckedRecord",
    "Entry",
    "Framer",
    "Head",
    "check_record",
]
