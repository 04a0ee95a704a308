"""What never reaches the disk: which names and which texts are secrets.

How they are found and taken out, `audit_async._redact.redactor` knows.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from audit_async.config.setting import Flag, Settings

_SecretNames = Annotated[
    tuple[Annotated[str, Meta(pattern=r"^[^,]*[^\W_][^,]*\Z", max_length=64)], ...],
    Meta(
        description="names of up to 64 characters, with a letter or digit and no comma; in a variable joined by commas"
    ),
]


class Redaction(Settings, frozen=True, kw_only=True):
    """What is taken out of free-form data, headers and bodies before it is recorded, and replaced by `[redacted:kind]`.

    Args:
        enabled: Whether to search at all. Fields of a fixed type (`path: str`) are never searched: the code chooses
            what they hold.
        keys: The names whose values are secrets, anywhere in free-form data. Case, accents, punctuation and digits at
            the end don't count, and a name may begin with anything: `api_key` is also `X-Api-Key` and `stripeApiKey2`.
            A name that goes on (`token_count`, `password_changed_at`) is another one. Given, they replace the list.
        extra_keys: Names in addition to those of `keys`.
        values: Whether to take out what looks like a secret by itself, whatever its name: bearer and basic
            credentials, JWTs, private keys in PEM, keys of services, passwords in URLs, card numbers; of a longer text
            only that part.

    Raises:
        ConfigError: If a value is not allowed.
    """

    _path: ClassVar[str] = "redaction."

    enabled: Flag = True
    keys: _SecretNames = (
        "password", "passwd", "pwd", "passphrase", "passcode", "pass", "password_confirmation", "password_hash",
        "secret", "token", "access_token", "refresh_token", "auth_token", "api_token", "jwt", "bearer", "otp", "totp",
        "authorization", "cookie", "credential", "api_key", "private_key", "secret_key", "access_key", "signing_key",
        "encryption_key", "master_key", "account_key", "shared_key", "session_key", "subscription_key", "auth_key",
        "hmac_key", "storage_key", "card_number", "cvv", "cvc", "security_code", "pin", "ssn", "social_security_number",
        "iban", "recovery_code", "recovery_phrase", "backup_code", "otp_code", "mfa_code", "seed_phrase", "mnemonic",
        "psk", "phpsessid", "jsessionid", "connect_sid", "sessid", "gitlab_session", "laravel_session",
        "passwort", "kennwort", "wachtwoord", "contrasena", "contraseña", "senha", "mot_de_passe", "losenord",
        "lösenord", "heslo", "haslo", "hasło", "пароль", "密码", "密碼", "パスワード", "비밀번호",
    )  # fmt: skip
    extra_keys: _SecretNames = ()
    values: Flag = True
