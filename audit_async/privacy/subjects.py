"""Whose a key is: a person in an id space, and the pseudonym that the key store knows him by.

The key store names nobody: it holds an HMAC of the subject under a random key that was made once with the store, and
is wrapped by the master key. So a stolen store can't be searched for a name, and a rotation of the master key changes
no pseudonym.
"""

from __future__ import annotations

import hmac
from typing import Final, NamedTuple

from audit_async.config.key_store_settings import Normalization, normalized

#: Half of HMAC-SHA256, as RFC 2104 allows (https://www.rfc-editor.org/rfc/rfc2104#section-5): 500 million subjects
#: collide with a chance below 2^-70.
PSEUDONYM_BYTES: Final = 16

_DOMAIN: Final = b"audit-async subject 1"


class Subject(NamedTuple):
    """A person as the service knows him: the id alone does not say who, since customer 42 is not user 42.

    Args:
        tenant: The tenant whose id it is, empty if there are none.
        kind: The id space: `user`, `customer`, ….
        id: The id in it.
    """

    tenant: str
    kind: str
    id: str


#: Whose the personal members of nobody in particular are: the address of an anonymous request, the name that somebody
#: typed. One key a session and day, which only forgetting by age destroys.
UNATTRIBUTED: Final = Subject("", "unattributed", "")


def pseudonym_of(subject: Subject, key: bytes, form: Normalization = "NFC") -> bytes:
    """Return what the key store knows a subject by: 16 bytes.

    HMAC-SHA256 over the tenant, the kind and the id, each as UTF-8 after its length in 4 bytes, big-endian. Only the id
    is normalised. Pure CPU, for any thread.
    """
    parts = [_DOMAIN]
    for part in (subject.tenant, subject.kind, normalized(subject.id, form)):
        text = part.encode("utf-8", "surrogatepass")
        parts += (len(text).to_bytes(4, "big"), text)
    return hmac.digest(key, b"".join(parts), "sha256")[:PSEUDONYM_BYTES]
