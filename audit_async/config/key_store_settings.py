"""How a key store is opened: where its master key comes from, and how the ids of persons are normalised.

Loads no cryptography and touches no disk, so that a configuration can be read without the extra `privacy`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Final, Literal

from msgspec import Struct

from audit_async.config.transparency import SecretSource, is_secret_itself, secret_kind
from audit_async.errors import ConfigError

#: Wraps or unwraps a key of 32 bytes: the key and what it is for (`audit-async day key 2026-11-28`), which a KMS takes
#: as the encryption context. Called in a worker thread, so it may block.
WrapFunction = Callable[[bytes, str], bytes]

#: How the id of a person is normalised before it is looked up, so that one person has one set of keys: Unicode's NFC,
#: NFC without regard to case (e-mail addresses), or not at all.
Normalization = Literal["NFC", "NFC-casefold", "none"]

_PASSPHRASE: Final = "passphrase:"  # noqa: S105 - the word, not a secret
_FILE: Final = "file:"
_FIELD: Final = "privacy.master_key"


class ExternalMasterKey(Struct, frozen=True, kw_only=True):
    """A master key in a KMS or HSM, which wraps the key of each day and never leaves it.

    - `name`: what messages call it, such as the key's ARN; never a secret.
    - `wrap`: takes a key of 32 bytes and its purpose, returns the wrapped key.
    - `unwrap`: takes a wrapped key and the same purpose, returns the key.

    Both are asked about once a day, never for each person. An exception that they raise counts as "not available now".
    """

    name: str
    wrap: WrapFunction
    unwrap: WrapFunction

    def __post_init__(self) -> None:
        name: object = self.name
        functions: tuple[object, ...] = (self.wrap, self.unwrap)
        if not isinstance(name, str) or not name or not name.isprintable():
            raise ConfigError(_FIELD, "an ExternalMasterKey's name is one printable line, not empty")
        if not all(callable(function) for function in functions):
            raise ConfigError(_FIELD, "an ExternalMasterKey's wrap and unwrap take a key and its purpose, return bytes")


#: `file:PATH` or a path, `env:NAME`, `credential:NAME` (systemd): 32 bytes, raw, hex or base64. With `passphrase:`
#: before it, the source holds a passphrase instead. Or a KMS.
MasterKeySource = str | ExternalMasterKey


def split_master_key_source(source: str) -> tuple[SecretSource, bool]:
    """Return the source of the secret, and whether the secret is a passphrase.

    Raises:
        ConfigError: It names no place.
    """
    is_passphrase = source.startswith(_PASSPHRASE)
    place = source.removeprefix(_PASSPHRASE).removeprefix(_FILE)
    kind, name = secret_kind(place)
    if is_secret_itself(place):
        raise ConfigError(_FIELD, "it holds the key itself; give file:PATH, env:NAME or credential:NAME")
    if not name or "\0" in name or (kind == "file" and name.startswith("~")):
        raise ConfigError(
            _FIELD, "give file:PATH, env:NAME, credential:NAME, one of them after passphrase:, or an ExternalMasterKey"
        )
    return place, is_passphrase


def normalized(text: str, form: Normalization) -> str:
    """Return an id as it is looked up.

    The fold is Unicode's canonical caseless match (https://www.unicode.org/versions/Unicode15.0.0/ch03.pdf, D145).
    """
    if form == "none":
        return text
    if form == "NFC-casefold":
        text = unicodedata.normalize("NFD", text).casefold()
    return unicodedata.normalize("NFC", text)
