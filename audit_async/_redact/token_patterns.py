r"""What looks like a secret by itself, whatever its name: found in a text, and replaced by `[redacted:kind]`.

Where a form can be checked it is: a JWT's header decodes to JSON with an `alg`, basic credentials decode to text with a
colon, a card number has a known prefix, its length and a right last digit (Luhn). So a version, a UUID, a hash, a time
or an order's number stays what it is.

Every pattern takes linear time: it begins where no part of it can have begun before, or its length is bounded, and its
runs are possessive, so a text that is made to be expensive is not. And since nearly all texts hold no secret, each is
asked first for what it must contain, with a substring search where that is enough (python -m bench emit).
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, urlsafe_b64decode
from typing import Final

import msgspec

from audit_async._redact.service_keys import redact_service_keys

__all__ = ["is_card_number", "redact_credentials", "redact_values", "redacted"]


def redacted(kind: str) -> str:
    """Return what replaces a secret of this kind."""
    return f"[redacted:{kind}]"


# -- what has to be found before names are: their values may have spaces -------------------------------------

_PEM_BEGIN: Final = re.compile(
    r"-{4,5} ?BEGIN (?:[A-Z0-9]{1,20} ){0,4}PRIVATE KEY(?: BLOCK)? ?-{4,5}|-----BEGIN OpenVPN Static key V1-----"
)
_PEM_END: Final = re.compile(
    r"-{4,5} ?END (?:[A-Z0-9]{1,20} ){0,4}PRIVATE KEY(?: BLOCK)? ?-{4,5}|-----END OpenVPN Static key V1-----"
)
_BEARER: Final = re.compile(r"(?<![A-Za-z0-9])(bearer(?:[ \t+]|%20){1,8})([A-Za-z0-9._~+/-]{4,}+={0,2})", re.IGNORECASE)
_BASIC: Final = re.compile(
    r"(?<![A-Za-z0-9])(basic(?:[ \t+]|%20){1,8})([A-Za-z0-9+/_-]{4,}+(?:=|%3D){0,2})", re.IGNORECASE
)

# Credentials in files of Docker and npm: the same as after `Basic`, under the name `auth`.
_AUTH: Final = re.compile(
    r"(?<![A-Za-z0-9])(_?auth\\?[\"']?[ \t]{0,4}[=:][ \t]{0,4}\\?[\"']?)([A-Za-z0-9+/_-]{8,}+(?:=|%3D){0,2})",
    re.IGNORECASE,
)


def redact_credentials(text: str) -> str:
    """Replace private keys in PEM, and the credentials after `Bearer` and `Basic`."""
    if "PRIVATE KEY" in text or "OpenVPN Static key" in text:
        text = _without_private_keys(text)
    lowered = text.lower()
    if "bearer" in lowered:
        text = _BEARER.sub(_bearer, text)
    if "basic" in lowered:
        text = _BASIC.sub(_basic, text)
    return _AUTH.sub(_basic, text) if "auth" in lowered else text


def _without_private_keys(text: str) -> str:
    kept = []
    at = 0
    while begin := _PEM_BEGIN.search(text, at):
        kept += [text[at : begin.start()], redacted("private_key")]
        end = _PEM_END.search(text, begin.end())
        # If the end is missing, the text was cut somewhere in the key.
        at = end.end() if end else len(text)
    return "".join([*kept, text[at:]])


def _bearer(found: re.Match[str]) -> str:
    token = found[2]
    # "Bearer authentication", "bearer of news": words have no digits. Alone in the text, it is a header's value.
    has_digit = any("0" <= character <= "9" for character in token)
    alone = len(found[0]) == len(found.string) and not token.isalpha()
    if (has_digit and len(token) >= 8) or alone or len(token) >= 32:
        return found[1] + redacted("bearer_token")
    return found[0]


def _basic(found: re.Match[str]) -> str:
    padded = re.sub("=|%3D", "", found[2], flags=re.IGNORECASE).translate({ord("-"): "+", ord("_"): "/"})
    try:
        user, colon, password = b64decode(padded + "=" * (-len(padded) % 4)).partition(b":")
        if colon and user.decode().isprintable() and min(password, default=0x20) >= 0x20:
            return found[1] + redacted("basic_credentials")
    except (binascii.Error, UnicodeDecodeError):
        pass
    return found[0]


# -- what is known by its form ----------------------------------------------------------------------------------

_JWT: Final = re.compile(r"(?<![A-Za-z0-9_-])(e[wy][A-Za-z0-9_-]{6,}+)\.[A-Za-z0-9_-]*+(?:\.[A-Za-z0-9_-]*+){0,3}")

# A key of a service, a JWT, a signature is no shorter than this.
_LONG_WORD: Final = re.compile(r"(?<!\S)\S{15}")
_MANY_DIGITS: Final = re.compile(r"[0-9]{4}(?:[0-9]{8}|[ -][0-9]{4})")

_WEBHOOK: Final = re.compile(
    r"(hooks\.slack(?:-gov)?\.com/[a-z]{1,20}/|api/webhooks/[0-9]{1,30}/|\.webhook\.office\.com/webhookb2/"
    r"|chat\.googleapis\.com/v1/spaces/[A-Za-z0-9_-]{1,64}/messages\?|hooks\.zapier\.com/hooks/catch/)"
    r"[A-Za-z0-9_/@?&=%.-]{16,}+"
)
# After `://`, so that each is looked at once. Digits after the colon are a port, unless an @ ends the authority. A
# password may hold a slash, if it is not encoded as it should be.
_URL_PASSWORD: Final = re.compile(
    r"(?<=://)(?!\[)([^\s/?#:@\"'<>]{0,256}+:)(?:([^\s/?#\"'<>]{1,512})@(?=[^\s@])"
    r"|(?![0-9]{0,5}(?:[/?#\s]|\Z))([^\s@\"'<>]{1,200}+)@)"
)
_SIGNATURE: Final = re.compile(
    r"(?<=[?&;])((?:(?:X-(?:Amz|Goog|OSS|Cos)-)?(?:Signature|Sig|HMAC)|X-Amz-Security-Token|q-signature)=)"
    r"[^\s&\"'<>]{8,}+|(?<=[?&;])(code=)(?=[^\s&;\"'<>]{20})[A-Za-z0-9/_.%~+=-]{20,}+",
    re.IGNORECASE,
)

_CARD: Final = re.compile(
    # Neither a part of a longer number or word, nor of a decimal fraction, nor after the + of a telephone number; in
    # groups neither a part of more groups of four nor of an IBAN.
    r"(?<![A-Za-z0-9_+-])(?<![0-9]\.)(?:"
    r"[2-6][0-9]{12,18}"
    r"|(?<![A-Z]{2}[0-9]{2} )(?<![0-9]{4} )(?:"
    r"[2-6][0-9]{3}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{1,4}(?:\1[0-9]{1,3})?"
    r"|3[0-9]{3}([ -])[0-9]{6}\2[0-9]{4,5}))"
    r"(?![A-Za-z0-9_]|[-.][0-9])"
)
# The issuers' ranges (ISO/IEC 7812, as the networks publish them): first and last prefix, lengths.
_ISSUERS: Final = (
    (4, 4, (13, 16, 19)),  # Visa
    (51, 55, (16,)),  # Mastercard
    (2221, 2720, (16,)),
    (34, 34, (15,)),  # American Express
    (37, 37, (15,)),
    (6011, 6011, range(16, 20)),  # Discover
    (644, 649, range(16, 20)),
    (65, 65, range(16, 20)),
    (300, 305, (14,)),  # Diners Club
    (36, 36, (14,)),
    (38, 39, (14,)),
    (3528, 3589, range(16, 20)),  # JCB
    (62, 62, range(16, 20)),  # UnionPay
    (5018, 5018, range(13, 20)),  # Maestro
    (5020, 5020, range(13, 20)),
    (5038, 5038, range(13, 20)),
    (6304, 6304, range(13, 20)),
    (6759, 6763, range(13, 20)),
)


def redact_values(text: str) -> str:
    """Replace JWTs, keys of services, passwords and signatures in URLs, and card numbers."""
    if _LONG_WORD.search(text) is not None:
        if "." in text:
            text = _JWT.sub(_jwt, text)
        text = redact_service_keys(text)
        if "/" in text:
            text = _WEBHOOK.sub(_webhook, text)
        if "=" in text and ("?" in text or "&" in text or ";" in text):
            text = _SIGNATURE.sub(_signature, text)
    if "://" in text:
        text = _URL_PASSWORD.sub(_url_password, text)
    return _CARD.sub(_card, text) if _MANY_DIGITS.search(text) is not None else text


def _jwt(found: re.Match[str]) -> str:
    header = found[1]
    try:
        decoded = msgspec.json.decode(urlsafe_b64decode(header + "=" * (-len(header) % 4)))
    except (ValueError, RecursionError):  # no base64, no JSON
        return found[0]
    return redacted("jwt") if isinstance(decoded, dict) and "alg" in decoded else found[0]


def _webhook(found: re.Match[str]) -> str:
    return found[1] + redacted("webhook")


def _url_password(found: re.Match[str]) -> str:
    password = found[2] or found[3]
    return found[0] if password.startswith("[redacted:") else f"{found[1]}{redacted('password')}@"


def _signature(found: re.Match[str]) -> str:
    if "[redacted:" in found[0]:
        return found[0]
    if found[2] is None:
        return found[1] + redacted("signature")
    # A code that is exchanged for a token, not a voucher's or a product's: digits, capitals and small letters.
    code = found[0]
    random = (
        any(map(str.isdigit, code)) and any(map(str.isupper, code)) and any(map(str.islower, code.partition("=")[2]))
    )
    return found[2] + redacted("code") if random else code


def _card(found: re.Match[str]) -> str:
    number = found[0]
    if is_card_number(re.sub("[ -]", "", number)):
        return redacted("card_number")
    # Three digits after it may be the card's check value instead.
    shorter, separator, rest = number.rpartition(found[1] or "none")
    if separator and is_card_number(shorter.replace(separator, "")):
        return redacted("card_number") + separator + rest
    return number


def is_card_number(digits: str) -> bool:
    """Return whether it is 13 to 19 ASCII digits with an issuer's prefix, its length, and Luhn's last digit."""
    if not _sums_to_ten(digits, _LUHN) or not _has_issuer(digits):
        return False
    # 13 digits (Maestro, Visa's old ones) are also the length of an article's number (EAN), with its own check digit.
    return len(digits) != 13 or not _sums_to_ten(digits, _EAN)


def _has_issuer(digits: str) -> bool:
    return any(
        len(digits) in lengths and first <= int(digits[: len(str(first))]) <= last for first, last, lengths in _ISSUERS
    )


# What every second digit, from the end, counts for.
_LUHN: Final = bytes.maketrans(b"0123456789", bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)))
_EAN: Final = bytes.maketrans(b"0123456789", bytes((0, 3, 6, 9, 2, 5, 8, 1, 4, 7)))


def _sums_to_ten(digits: str, every_second: bytes) -> bool:
    """Return whether the digits, every second from the end replaced, sum up to a multiple of ten."""
    ascii_digits = digits.encode()
    singles, doubles = ascii_digits[::-2], ascii_digits[-2::-2]
    return (sum(singles) - 48 * len(singles) + sum(doubles.translate(every_second))) % 10 == 0
