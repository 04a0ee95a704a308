"""The signature of a request, so that a receiver knows who sent it, and when.

    Audit-Signature: t=1796000000,v1=<HMAC-SHA256 of "1796000000." and the body as it was sent, in hex>

HMAC is https://www.rfc-editor.org/rfc/rfc2104. The time is part of what is signed: what was recorded on the network
can't be sent again later.
"""

from __future__ import annotations

import hmac
import re
import time
from typing import Final

__all__ = ["SIGNATURE_HEADER", "sign_request", "verify_signature"]

SIGNATURE_HEADER: Final = "Audit-Signature"
_FORM: Final = re.compile(r"t=([0-9]{1,12}),v1=([0-9a-f]{64})", re.ASCII)


def sign_request(body: bytes, key: bytes, *, at: float | None = None) -> str:
    """Return the value of the header.

    Args:
        body: The body as it is sent: compressed, if it is.
        key: The secret that sender and receiver share.
        at: When, in seconds since 1970; now if left out.
    """
    seconds = int(time.time() if at is None else at)
    return f"t={seconds},v1={_digest(seconds, body, key)}"


def verify_signature(
    header: str, body: bytes, key: bytes, *, tolerance_s: float = 300, now: float | None = None
) -> bool:
    """Return whether a request was signed with this key, not long ago; for receivers.

    Args:
        header: The value of `Audit-Signature`.
        body: The body as it came, before anything is decompressed.
        key: The secret that sender and receiver share.
        tolerance_s: How far the clocks, and the request's way, may be apart, in seconds.
        now: The present time, in seconds since 1970; the clock's if left out.
    """
    match = _FORM.fullmatch(header)
    if match is None:
        return False
    seconds = int(match[1])
    genuine = hmac.compare_digest(_digest(seconds, body, key), match[2])
    return genuine and abs((time.time() if now is None else now) - seconds) <= tolerance_s


def _digest(seconds: int, body: bytes, key: bytes) -> str:
    return hmac.digest(key, b"%d." % seconds + body, "sha256").hex()
