r"""What one record looks like, version 1 of the format.

One record is one line of UTF-8, ended by `\n` and by nothing else:

    {"seq":S,"audit_id":"A","timestamp":"T","service_id":"I","event":E[,"context":C],"prev_hash":"P","hash":"H"}

`H` is the SHA-256, in lower-case hex, of the line with the member `,"hash":"H"` cut out: of everything up to it,
then `}`. `P` is `H` of the record before, 64 zeros for seq 0. Both are at fixed distances from the end, so they
are found without parsing JSON, and what is stored is what is hashed, so no canonical form of JSON is needed.
"""

from __future__ import annotations

from typing import Final, NamedTuple

FORMAT_VERSION: Final = 1

GENESIS_HASH: Final = b"0" * 64

PREV_MEMBER: Final = b',"prev_hash":"'
HASH_MEMBER: Final = b'","hash":"'
LINE_END: Final = b'"}\n'

# Distances from the end of a line, its "\n" included; every line has the same tail.
HASH_AT: Final = -(64 + len(LINE_END))
BODY_END: Final = HASH_AT - len(HASH_MEMBER) + 1  # after the quote that closes prev_hash
PREV_AT: Final = HASH_AT - len(HASH_MEMBER) - 64
PREV_MEMBER_AT: Final = PREV_AT - len(PREV_MEMBER)


class Head(NamedTuple):
    """The newest record of a chain."""

    seq: int  #: its sequence number; -1 before the first record
    hash: bytes  #: its hash as 64 lower-case hex digits; `GENESIS_HASH` before the first record


START: Final = Head(-1, GENESIS_HASH)
