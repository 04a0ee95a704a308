"""What looks like a secret by itself, whatever its name: found in a text, and replaced by `[redacted:kind]`.

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

__all__ = ["is_card_number", "redact_credentials", "redact_values", "redacted"]


def redacted(kind: str) -> str:
    """Return what stands in a secret's place."""
    return f"[redacted:{kind}]"


# -- what has to be found before names are: their values may have spaces -------------------------------------

_PEM_BEGIN: Final = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,4}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END: Final = re.compile(r"-----END (?:[A-Z0-9]{1,20} ){0,4}PRIVATE KEY(?: BLOCK)?-----")
_BEARER: Final = re.compile(r"(?<![A-Za-z0-9])(bearer(?:[ \t+]|%20){1,8})([A-Za-z0-9._~+/-]{4,}+={0,2})", re.IGNORECASE)
_BASIC: Final = re.compile(
    r"(?<![A-Za-z0-9])(basic(?:[ \t+]|%20){1,8})([A-Za-z0-9+/_-]{4,}+(?:=|%3D){0,2})", re.IGNORECASE
)


def redact_credentials(text: str) -> str:
    """Replace private keys in PEM, and the credentials behind `Bearer` and `Basic`."""
    if "PRIVATE KEY" in text:
        text = _without_private_keys(text)
    lowered = text.lower()
    if "bearer" in lowered:
        text = _BEARER.sub(_bearer, text)
    return _BASIC.sub(_basic, text) if "basic" in lowered else text


def _without_private_keys(text: str) -> str:
    kept = []
    at = 0
    while begin := _PEM_BEGIN.search(text, at):
        kept += [text[at : begin.start()], redacted("private_key")]
        end = _PEM_END.search(text, begin.end())
        # Where the end is missing, the text was cut somewhere in the key.
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


# -- what stands for itself ----------------------------------------------------------------------------------

_JWT: Final = re.compile(r"(?<![A-Za-z0-9_-])(e[wy][A-Za-z0-9_-]{6,}+)\.[A-Za-z0-9_-]*+(?:\.[A-Za-z0-9_-]*+){0,3}")

# A key of a service, a JWT, a signature is no shorter than this.
_LONG_WORD: Final = re.compile(r"(?<!\S)\S{15}")
_MANY_DIGITS: Final = re.compile(r"[0-9]{4}(?:[0-9]{8}|[ -][0-9]{4})")

# As their services document them, or have always made them; each begins with what nothing else begins with.
_SERVICE_KEYS: Final = {
    "aws_key": r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}",
    "github_token": r"gh[pousr]_[A-Za-z0-9]{30,}+|github_pat_[A-Za-z0-9_]{22,}+",
    "gitlab_token": r"gl(?:pat|dt|rt|rtr|cbt|ptt|ft|soat|agent|imt)-[A-Za-z0-9_.-]{20,}+",
    "slack_token": r"xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{10,}+|xapp-[A-Za-z0-9-]{10,}+",
    "google_key": r"AIza[A-Za-z0-9_-]{35,}+|GOCSPX-[A-Za-z0-9_-]{20,}+|ya29\.[A-Za-z0-9_-]{20,}+",
    "stripe_key": r"[sr]k_(?:live|test)_[A-Za-z0-9]{16,}+|whsec_[A-Za-z0-9+/=]{24,}+",
    "npm_token": r"npm_[A-Za-z0-9]{36,}+",
    "pypi_token": r"pypi-[A-Za-z0-9_-]{50,}+",
    "sendgrid_key": r"SG\.[A-Za-z0-9_-]{16,}+\.[A-Za-z0-9_-]{16,}+",
    "model_key": r"sk-(?:proj|svcacct|admin|ant-[a-z0-9]{1,10}|or-v1)-[A-Za-z0-9_-]{20,}+|sk-[A-Za-z0-9]{32,}+",
    "twilio_key": r"SK[0-9a-f]{32}",
    "digitalocean_token": r"do[opr]_v1_[0-9a-f]{64}",
    "huggingface_token": r"hf_[A-Za-z0-9]{30,}+",
    "vault_token": r"hv[bs]\.[A-Za-z0-9_-]{24,}+",
    "shopify_token": r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",
    "age_key": r"AGE-SECRET-KEY-1[A-Z0-9]{58}",
    "azure_secret": r"[A-Za-z0-9_.~-]{3}8Q~[A-Za-z0-9_.~-]{31,}+",
    "telegram_token": r"[0-9]{8,12}:AA[A-Za-z0-9_-]{32,}+",
}
_SERVICE_KEY: Final = re.compile(
    "(?<![A-Za-z0-9])(?:"
    + "|".join(f"(?P<{kind}>{pattern})" for kind, pattern in _SERVICE_KEYS.items())
    + ")(?![A-Za-z0-9])"
)
_WEBHOOK: Final = re.compile(r"(hooks\.slack\.com/[a-z]{1,20}/|api/webhooks/[0-9]{1,30}/)[A-Za-z0-9_/-]{16,}+")
# Behind `://`, so that each is looked at once; a path, a query or a fragment ends it.
_URL_PASSWORD: Final = re.compile(r"(?<=://)([^\s/?#:@\"'<>]{0,256}+:)([^\s/?#@\"'<>]{1,512}+)@")
_SIGNATURE: Final = re.compile(r"(?<=[?&;])((?:sig|X-Amz-Signature|X-Goog-Signature)=)[^\s&\"'<>]{16,}+", re.IGNORECASE)

_CARD: Final = re.compile(
    # Neither a part of a longer number or word, nor of a decimal fraction, nor behind the + of a telephone number; in
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
    """Replace JWTs, keys of cloud services, passwords and signatures in URLs, and card numbers."""
    if _LONG_WORD.search(text) is not None:
        if "." in text:
            text = _JWT.sub(_jwt, text)
        text = _SERVICE_KEY.sub(_service_key, text)
        if "/" in text:
            text = _WEBHOOK.sub(_webhook, text)
        if "=" in text and ("?" in text or "&" in text):
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


def _service_key(found: re.Match[str]) -> str:
    assert found.lastgroup is not None  # noqa: S101 - every alternative is a named group
    return redacted(found.lastgroup)


def _webhook(found: re.Match[str]) -> str:
    return found[1] + redacted("webhook")


def _url_password(found: re.Match[str]) -> str:
    return found[0] if found[2].startswith("[redacted:") else f"{found[1]}{redacted('password')}@"


def _signature(found: re.Match[str]) -> str:
    return found[0] if "[redacted:" in found[0] else found[1] + redacted("signature")


def _card(found: re.Match[str]) -> str:
    number = found[0]
    if is_card_number(re.sub("[ -]", "", number)):
        return redacted("card_number")
    # Three digits behind it may be the card's check value instead.
    shorter, separator, rest = number.rpartition(found[1] or "none")
    if separator and is_card_number(shorter.replace(separator, "")):
        return redacted("card_number") + separator + rest
    return number


def is_card_number(digits: str) -> bool:
    """True for 13 to 19 ASCII digits with an issuer's prefix, its length, and Luhn's last digit."""
    if not _has_issuer(digits) or not _sums_to_ten(digits, (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)):
        return False
    # Visa's old 13 digits are also the length of an article's number (EAN), which has a check digit of its own.
    return len(digits) != 13 or not _sums_to_ten(digits, (0, 3, 6, 9, 2, 5, 8, 1, 4, 7))


def _has_issuer(digits: str) -> bool:
    return any(
        len(digits) in lengths and first <= int(digits[: len(str(first))]) <= last for first, last, lengths in _ISSUERS
    )


def _sums_to_ten(digits: str, every_second: tuple[int, ...]) -> bool:
    """True where the digits, every second from the end replaced, sum up to a multiple of ten."""
    backwards = [int(digit) for digit in reversed(digits)]
    return (sum(backwards[::2]) + sum(every_second[digit] for digit in backwards[1::2])) % 10 == 0
