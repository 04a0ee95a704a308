"""Two lists for redaction: 200 secrets as they look in reality, and 200 harmless texts that look like secrets.

The secrets are made here, from a fixed seed: none was ever in use, and none stands in this file as a whole.
"""

from __future__ import annotations

import base64
import json
import random
import string
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

_random = random.Random(20_261_123)  # noqa: S311 - the same list at each run is the point
_ALNUM = string.ascii_letters + string.digits
_URLSAFE = _ALNUM + "-_"


class Secret(NamedTuple):
    """A secret, and the text that it is recognised in: itself, or what surrounds it in reality."""

    kind: str
    secret: str  #: what must reach no disk
    text: str  #: where it stands
    name: str = "note"  #: the name that the text stands under


def _some(alphabet: str, length: int) -> str:
    return "".join(_random.choices(alphabet, k=length))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _jwt(**header: str) -> str:
    payload = {"sub": _some(string.digits, 10), "iat": 1_790_000_000 + _random.randrange(10**6), "admin": True}
    head, body = (json.dumps(part, separators=(",", ":")).encode() for part in (header, payload))
    return f"{_base64url(head)}.{_base64url(body)}.{_some(_URLSAFE, 43)}"


def _pem(label: str, lines: int = 6) -> str:
    body = "\n".join(_some(_ALNUM + "+/", 64) for _ in range(lines))
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----"


def card_number(prefix: str, length: int, chosen: random.Random | None = None) -> str:
    """Return a card's number with a prefix, a length and the last digit that is right."""
    digits = prefix + "".join((chosen or _random).choices(string.digits, k=length - len(prefix) - 1))
    doubled = [int(digit) * (2 if at % 2 == 0 else 1) for at, digit in enumerate(reversed(digits))]
    return digits + str(-sum(number - 9 if number > 9 else number for number in doubled) % 10)


def _grouped(digits: str, separator: str, *sizes: int) -> str:
    groups = []
    for size in sizes:
        groups.append(digits[:size])
        digits = digits[size:]
    return separator.join(groups)


def _service_keys() -> tuple[str, ...]:
    upper = string.ascii_uppercase + string.digits
    hexadecimal = "0123456789abcdef"
    return (
        "AKIA" + _some(upper, 16), "ASIA" + _some(upper, 16), "ghp_" + _some(_ALNUM, 36), "gho_" + _some(_ALNUM, 36),
        "ghs_" + _some(_ALNUM, 36), "github_pat_" + _some(_ALNUM, 22) + "_" + _some(_ALNUM, 59),
        "glpat-" + _some(_URLSAFE, 20), "xoxb-" + _some(string.digits, 12) + "-" + _some(_ALNUM, 24),
        "xoxp-" + _some(string.digits, 12) + "-" + _some(_ALNUM, 32), "AIza" + _some(_URLSAFE, 35),
        "ya29." + _some(_URLSAFE, 60), "GOCSPX-" + _some(_URLSAFE, 28), "sk_live_" + _some(_ALNUM, 24),
        "rk_live_" + _some(_ALNUM, 24), "whsec_" + _some(_ALNUM, 32), "npm_" + _some(_ALNUM, 36),
        "SG." + _some(_URLSAFE, 22) + "." + _some(_URLSAFE, 43), "sk-proj-" + _some(_URLSAFE, 48),
        "SK" + _some("0123456789abcdef", 32), "dop_v1_" + _some("0123456789abcdef", 64), "hf_" + _some(_ALNUM, 34),
        "hvs." + _some(_URLSAFE, 28), "shpat_" + _some("0123456789abcdef", 32),
        "AGE-SECRET-KEY-1" + _some(upper, 58), _some(_ALNUM, 3) + "8Q~" + _some(_URLSAFE, 34),
        _some("123456789", 10) + ":AA" + _some(_URLSAFE, 33),
        # Since 2023 and later, as their services document them.
        "glrt-t1_" + _some(_URLSAFE, 30) + ".01.0a1b2c3d4", "gloas-" + _some(_ALNUM, 64),
        "glcbt-1f_" + _some(_ALNUM, 20),
        "xoxe.xoxp-1-" + _some(upper, 146), "xapp-1-" + _some(upper, 11) + "-1234567890123-" + _some(_ALNUM, 64),
        "sk-ant-api03-" + _some(_URLSAFE, 93) + "AA", "sk-svcacct-" + _some(_URLSAFE, 74), "gsk_" + _some(_ALNUM, 52),
        "xai-" + _some(_ALNUM, 80), "pplx-" + _some(_ALNUM, 48), "r8_" + _some(_ALNUM, 37),
        "sk-or-v1-" + _some(hexadecimal, 64),
        "lsv2_pt_" + _some(hexadecimal, 32) + "_" + _some(hexadecimal, 10),
        "pypi-AgEIcHlwaS5vcmc" + _some(_URLSAFE, 60),
        "rubygems_" + _some(hexadecimal, 48), "dckr_pat_" + _some(_ALNUM, 27), "key-" + _some(hexadecimal, 32),
        _some(hexadecimal, 32) + "-" + _some(hexadecimal, 8) + "-" + _some(hexadecimal, 8),
        _some(hexadecimal, 32) + "-us12", "xkeysib-" + _some(hexadecimal, 64) + "-" + _some(_ALNUM, 16),
        "re_" + _some(_ALNUM, 8) + "_" + _some(_ALNUM, 24), "lin_api_" + _some(_ALNUM, 40),
        "ntn_" + _some(_ALNUM, 46),
        "secret_" + _some(_ALNUM, 43), "ATATT3" + _some(_URLSAFE, 186), "sq0csp-" + _some(_URLSAFE, 43),
        "glsa_" + _some(_ALNUM, 32) + "_" + _some(hexadecimal, 8), "NRAK-" + _some(upper, 27),
        "sntrys_" + _some(_ALNUM, 90),
        "dapi" + _some(hexadecimal, 32), "pscale_pw_" + _some(_ALNUM, 43), "sbp_" + _some(hexadecimal, 40),
        "nfp_" + _some(_ALNUM, 36), "fo1_" + _some(_URLSAFE, 43), "HRKU-AA" + _some(_URLSAFE, 58),
        "dp.pt." + _some(_ALNUM, 43), "pul-" + _some(hexadecimal, 40),
        "tskey-auth-" + _some(_ALNUM, 17) + "-" + _some(_ALNUM, 32),
        "PMAK-" + _some(hexadecimal, 24) + "-" + _some(hexadecimal, 34), "figd_" + _some(_URLSAFE, 40),
        "pat-na1-" + str(UUID(int=_random.getrandbits(128), version=4)),
        "patA1b2C3d4E5f6g7." + _some(hexadecimal, 64),
        "hvb." + _some(_URLSAFE, 140), _some(_ALNUM, 14) + ".atlasv1." + _some(_URLSAFE, 67),
        "M" + _some(_ALNUM, 23) + "." + _some(_ALNUM, 6) + "." + _some(_URLSAFE, 38),
        "shpss_" + _some(hexadecimal, 32),
        _some(_ALNUM, 76) + "AZDO" + _some(_ALNUM, 4), "whsec_" + _some(_ALNUM + "+/", 44),
        "rk_test_" + _some(_ALNUM, 24),
        "1//0g" + _some(_URLSAFE, 60), "LTAI" + _some(_ALNUM, 20), "sdk-" + str(UUID(int=_random.getrandbits(128),
        version=4)),
        "sha256~" + _some(_URLSAFE, 43), "gh" + "s_" + _some(_ALNUM, 40), "-".join(["A3",
        *(_some(upper, size) for size in (6, 6, 5, 5, 5, 5))]),
    )  # fmt: skip


def _made_secrets() -> list[Secret]:
    found: list[Secret] = []

    def add(kind: str, secret: str, text: str = "{}", name: str = "note") -> None:
        found.append(Secret(kind, secret, text.replace("{}", secret), name))

    # Passwords and the like, known by their name alone: in data, headers and texts.
    for name in (
        "password", "Password", "user_password", "newPassword", "old-password", "PASSWD", "db_pwd", "DB_PASS",
        "passphrase", "passwordConfirmation", "mysqlpassword", "password2", "secret", "client_secret",
        "clientSecret", "AWS_SECRET_ACCESS_KEY", "token", "access_token", "refreshToken", "x-csrf-token", "id_token",
        "sessionToken", "authorization", "Proxy-Authorization", "cookie", "Set-Cookie", "cookies", "api_key",
        "apiKey", "X-Api-Key", "apikey", "stripeApiKey2", "private_key", "sshPrivateKey", "signing_key",
        "encryptionKey", "AccountKey", "credentials", "otp", "card_number", "jwt", "Ocp-Apim-Subscription-Key",
        "pin", "user_pin", "ssn", "iban",
        "customer_iban", "passwort", "PHPSESSID", "connect.sid", "securityCode", "totp", "psk",
    ):  # fmt: skip
        add("named", _some(_ALNUM + "!$%*", _random.randrange(8, 24)), name=name)
    for frame in (
        "https://shop.example/reset?user=7&reset_token={}&lang=en", "https://shop.example/cb#access_token={}",
        "login failed: password={}, user=bob", "retrying with api_key='{}'", 'config: client_secret="{}" loaded',
        '{"user":"bob","password":"{}"}', '{"a":{"b":[{"apiKey":"{}"}]}}', 'bad request: {"password":"{}","n":1',
        'body "{\\"token\\":\\"{}\\"}" refused', "<login><user>bob</user><password>{}</password></login>",
        "<wsse:Password Type='text'>{}</wsse:Password>", "POST / HTTP/1.1\r\nX-Api-Key: {}\r\nHost: a",
        "curl -H 'Cookie: sid={}' https://a.example", "Set-Cookie: sid={}; Path=/; HttpOnly", "{'password': '{}'}",
        "postgres://shop:{}@db.example:5432/orders", "redis://:{}@cache.example/0", "amqps://u:{}@mq.example",
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey={};EndpointSuffix=core.windows.net",
        "password: '{}'", 'password:"{}"', ':password => "{}"', "'password' => '{}'", "{password: '{}', user: 'b'}",
        "mysqldump --password {} db", "deploy --token {} --env prod", "tool --api-key '{}' run",
        "curl -u bob:{} https://a.example", "curl --user 'bob:{}' https://a.example", "http -a bob:{} a.example",
        "mysql -u root -p{} orders", "sshpass -p {} ssh db.example", "docker login -u bob -p {} registry.example",
        "redis-cli -a {} ping", "openssl rsa -passin pass:{} -in k.pem", "redis://:{}/b@cache.example",
        "CREATE USER bob IDENTIFIED BY '{}'", "machine a.example login bob password {}", "GET / PHPSESSID={}",
        "/cart;jsessionid={}", "https://a.example/f?Expires=1&Signature={}&Key-Pair-Id=K", "passwort={}",
        "Kennwort: '{}'", "user%5Bpassword%5D={}&x=1", "password:{}",
        "- name: DB_PASSWORD\n  value: {}", '<add key="DbPassword" value="{}"/>', "--data {\\\"pin\\\":\\\"{}\\\"}",
        'form-data; name="password"\r\n\r\n{}\r\n--B--', "ssn={}", "iban: '{}'", "otp={}",
        "https://a.example/cb?code={}x7Qp&state=s",
        "Server=db;User Id=sa;Password={};", "user=bob&password={}&remember=1", "token: {}",
        "redirect=https%3A%2F%2Fa.example%2F%3Faccess_token%3D{}", "export GITHUB_TOKEN={}", "secret_key = {}",
    ):  # fmt: skip
        add("named in text", _some(_ALNUM, 8) + "7" + _some(_ALNUM, _random.randrange(8, 20)), frame)
    # Known by their form.
    for frame in ("Bearer {}", "bearer {}", "sent Authorization: Bearer {} to the service", "got 'Bearer {}' back"):
        for length in (20, 32, 40, 64):
            add("bearer", "9" + _some(_ALNUM + "._-", length) + "x", frame)
    for user, frame in (("admin", "Basic {}"), ("bob@a.example", "basic {}"), ("", "Authorization: Basic {}"),
                        ("svc", "the header was Basic {} as before"), ("u",
                        "curl -H 'authorization: Basic {}'")):  # fmt: skip
        for length in (6, 14):
            add("basic", base64.b64encode(f"{user}:{_some(_ALNUM, length)}".encode()).decode(), frame)
    for frame in ("{}", "session {} has expired", "https://a.example/verify/{}", "id={}", '["{}"]'):
        add("jwt", _jwt(alg="HS256", typ="JWT"), frame)
        add("jwt", _jwt(alg="RS256", kid=_some(_ALNUM, 8)), frame)
        add("jwt", _jwt(typ="JWT", alg="EdDSA"), frame)
    for label in ("PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY", "ENCRYPTED PRIVATE KEY",
                  "DSA PRIVATE KEY", "PGP PRIVATE KEY BLOCK"):  # fmt: skip
        pem = _pem(label)
        found.append(Secret("pem", pem.splitlines()[2], pem))
        found.append(Secret("pem", pem.splitlines()[3], f"found in the image: {pem} (layer 3)"))
    for key in (*_service_keys(), *_service_keys()):
        add("cloud", key, "{}" if len(found) % 2 else "the key {} was pushed by mistake")
    add("webhook", _some(_ALNUM, 24), "https://hooks.slack.com/services/T0000/B0000/{}")
    add("signature", _some(_ALNUM, 43), "https://a.blob.core.windows.net/c/f?sv=2026&sp=r&sig={}%3D")
    for prefix, length, sizes in (
        ("4", 16, (4, 4, 4, 4)), ("51", 16, (4, 4, 4, 4)), ("2221", 16, (4, 4, 4, 4)), ("34", 15, (4, 6, 5)),
        ("37", 15, (4, 6, 5)), ("6011", 16, (4, 4, 4, 4)), ("3528", 16, (4, 4, 4, 4)), ("36", 14, (4, 6, 4)),
        ("62", 19, (4, 4, 4, 4, 3)),
    ):  # fmt: skip
        card = card_number(prefix, length)
        add("card", card)
        add("card", _grouped(card, " ", *sizes), "paid with {} exp 12/29")
        add("card", _grouped(card_number(prefix, length), "-", *sizes), "card:{}.")
    return found


SECRETS = _made_secrets()


def _made_look_alikes() -> list[tuple[str, object]]:
    start = datetime(2026, 11, 23, 4, 35, 12, 123_456, tzinfo=UTC)
    counts = (
        "token_count", "max_tokens", "tokens", "prompt_tokens", "total_tokens", "tokenCount", "password_length",
        "passwordMinLength", "secret_count", "cookie_count", "api_key_count", "token_ttl_s", "password_attempts",
    )  # fmt: skip
    switches = ("has_password", "is_secret", "token_valid", "password_changed", "password", "secret", "mfa_token")
    found: list[tuple[str, object]] = [(name, _random.randrange(1, 40_000)) for name in counts]
    found += [(name, _random.random() < 0.5) for name in switches]
    found += [
        ("token_type", "Bearer"), ("token_id", "tok-17"), ("token_fingerprint", "token:a3f2c1"),
        ("password_policy", "strict"), ("password_changed_at", "2026-11-23T04:35:12Z"), ("passwordHint", "pet"),
        ("secret_name", "orders/db"), ("secret_version", "7"), ("secretary", "Mrs Moneypenny"),
        ("api_key_id", "key-17"), ("api_key_name", "billing"), ("cookie_policy", "accepted"),
        ("cookie_consent", "all"), ("authorization_url", "https://a.example/authorize"),
        ("authorizationEndpoint", "/oauth/authorize"), ("author", "Ada Lovelace"), ("authorized_by", "ada"),
        ("next_page_token", "CAUQAA"), ("nextPageToken", "eAoB"), ("continuation_token", "c-17"),
        ("compass", "north"), ("bypass", "none"), ("passport_country", "DE"), ("passenger", "Bob"),
        ("boarding_pass", "LH 400"), ("public_key", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJx1PZ0f3Zl5y8Gk0Qm"),
        ("primary_key", "id"), ("foreign_key", "order_id"), ("idempotency_key", "6f1c7c1e"),
        ("cache_key", "orders:17"), ("sort_key", "name"), ("partition_key", "eu-17"), ("key", "replicas"),
        ("keyboard", "de-latin1"), ("monkey", "see"), ("design_token", "color.primary"), ("tokenizer", "bpe"),
        ("jwt_algorithm", "EdDSA"), ("otp_enabled", True), ("credential_type", "passkey"), ("bearer_of_news", "Bob"),
        ("laptop", "T14"), ("session_id", "s-9"), ("order_number", "4929252233319004"),
        ("tracking_number", "5425233430109903"), ("ean", "4006381333931"), ("isbn", "9783161484100"),
        ("imei", "352099001761481"), ("pin_layout", "a1"), ("led_pin", 1713), ("gpio_pins", [17, 27, 1713]),
        ("iban_country", "DE"), ("otp_length", 600), ("ssn_provided", True), ("pinned", "yes"), ("spin", 4711),
    ]  # fmt: skip
    # Times, in all forms; numbers of things; identifiers and hashes.
    for step in range(6):
        at = start + timedelta(days=37 * step, microseconds=step * 7919)
        found += [
            ("at", at.isoformat()), ("at_ms", int(at.timestamp() * 1000)),
            ("at_us", str(int(at.timestamp() * 10**6))), ("at_ns", int(at.timestamp()) * 10**9 + step),
            ("stamp", at.strftime("%Y%m%d%H%M%S")),
        ]  # fmt: skip
    for _ in range(8):
        found += [
            ("id", str(UUID(int=_random.getrandbits(128), version=4))),
            ("trace", f"{_random.getrandbits(128):032x}"),
            ("sha1", f"{_random.getrandbits(160):040x}"),
            ("sha256", f"{_random.getrandbits(256):064x}"),
            ("etag", f'W/"{_random.getrandbits(64):x}"'),
        ]
    for text in (
        "+49 30 1234 5678 90", "+1 (555) 010-9999", "+4915112345678", "030/1234567", "0800 111 2222",
        "DE89 3704 0044 0532 0130 00", "GB29 NWBK 6016 1331 9268 19", "1234 5678 9012 3456", "0000 0000 0000 0000",
        "ORD-4111111111111111", "INV-2026-11-23-000417", "10.0.17.3", "2001:db8::17", "00:1b:44:11:3a:b7",
        "v2.17.3-rc1", "4.111111111111111", "-33.8688, 151.2093", "3.141592653589793", "1732336512123456789",
        "9007199254740993", "arn:aws:iam::123456789012:role/orders", "123456789012", "ami-0abcdef1234567890",
        "i-0abcd1234efgh5678", "projects/orders/secrets/db/versions/7",
        "s3://bucket/key/2026/11/23/part-00017.parquet", "pk_live_" + "abcdefghijklmnop12345678",
        "sk-learn pipeline", "task-force", "asia-northeast1", "ASIAN MARKETS",
        "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUQ\n-----END CERTIFICATE-----",
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQC7 ada@host", "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAE=",
        "eyewitness.report.pdf", "eyJhIjoxfQ", "eyJhIjoxLCJiIjoyfQ.Zm9vYmFy", "EAN 4006381000093",
        "DE12 5105 1051 0510 5100 00", "Basic plan", "basic authentication failed",
        "Basic Income Report 2026", "bearer of good news", "Bearer token missing", "Bearer authentication",
        'Bearer realm="orders", error="invalid_token"', "password: too short",
        "Password must have at least 12 characters", "your token has expired", "secret santa", "token: expired",
        "secret: no", "cookie: accepted", "authorization: granted", "Authorization: denied for ada",
        "the cookie banner was accepted", "forgot password?", "https://a.example/password/reset",
        "https://a.example/?page=2&sort=token&tokens=512", "https://a.example:8443/a@b",
        "mailto:ada@a.example?cc=b@a.example", "max_tokens=4096&temperature=0.2", "a=b", "x == token",
        "SELECT token_id FROM tokens WHERE id = 17", '{"token_count":512,"model":"llama-3-70b"}',
        '{"password":null,"secret":false}', "<p>password reset</p>", "password=****", "api_key=null",
        "http://localhost:8080/@scope/package", "git@github.com:a/b.git",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
        "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", "gzip, deflate, br, zstd",
        "max-age=31536000; includeSubDomains",
        'SyntaxError: Unexpected token: "}"', "unexpected token: ','", "password: ''", 'token: ""', "token => null",
        "use --password to set one", "--token is required", "the option --api-key must be given",
        "docker run -p 8080:80 web",
        "docker run -u 1000:1000 web", "redis-cli -p 6379 ping", "ssh -p 2222 host", "mkdir -p /srv/a", "curl -u",
        "curl -sSL https://a.example/install.sh", "mysql -u root -p orders", "http://[::1]:8080/a@b", "token:a3f2c1",
        "secret:60e431591ee0b67f", "https://a.example/?code=200&signature=no", "?code=SUMMER-SALE-2026-EXTRA",
        "gpio_pin=1713",
        "https://a.example/x?promo_code=ABC", "pinned: 4 items", "shipping: 4711", "opinion=positive", "spin=1713",
        "name: replicas, value: 4", '<add key="Theme" value="dark"/>', "name: DB_HOST\n  value: db17.example",
        'name="title"\n\nhello', "postgres://db.example:5432/orders", "git+ssh://git@a.example/a.git",
        "sk_" + "live", "hf_hub_download", "npm_config_registry", "re_compile_pattern_list", "key-value-store-0001",
        "s.strip().lower().split()", "api-gateway-7d9f8b6c5-x2x4z", "sha256:" + "0a" * 32, "M.T.Cicero",
        "pat.jones@a.example",
    ):  # fmt: skip
        found.append(("note", text))
    return found


LOOK_ALIKES = _made_look_alikes()
