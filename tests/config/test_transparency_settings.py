"""What a logger is told of its transparency log: checked before anything is touched, without the extra."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from audit_async import AuditConfig
from audit_async.config.transparency import ExternalKey, Transparency, default_origin, is_origin, secret_kind
from audit_async.errors import ConfigError


def test_what_a_configuration_holds() -> None:
    """A key is all that must be given; several keys, and everything else, may be."""
    least = Transparency(key="/etc/audit/key.pem")
    assert (least.keys, least.interval, least.every, least.witnesses) == (("/etc/audit/key.pem",), 60.0, None, ())
    external = ExternalKey(public_key=bytes(32), sign=lambda message: message)
    full = Transparency(
        key=(external, "credential:old", Path("key.pem")),
        passphrase="env:PASSPHRASE",
        origin="host.example/orders/00",
        interval=1,
        every=1000,
        publish_dir="/srv/www/log",
        witnesses=["witness.example/w1+00000000+AA== https://witness.example"],  # type: ignore[arg-type]  # as from a file
        policy="policy.txt",
        guard="/mnt/elsewhere/guard",
        witness_timeout=5,
    )
    assert full.keys == (external, "credential:old", Path("key.pem"))
    assert isinstance(full.interval, float)
    assert full.witnesses == ("witness.example/w1+00000000+AA== https://witness.example",)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("credential:new, credential:old", ("credential:new", "credential:old")),
        ("/etc/audit/key.pem", ("/etc/audit/key.pem",)),
    ],
)
def test_a_variable_has_one_key_or_several(text: str, keys: tuple[str, ...]) -> None:
    """A service that takes everything from the environment changes its key as one with a file does."""
    environ = {"AUDIT_BASE_DIR": "audit", "AUDIT_SERVICE_ID": "orders", "AUDIT_TRANSPARENCY_KEY": text}
    transparency = AuditConfig.from_env(environ=environ).transparency
    assert transparency is not None
    assert transparency.keys == keys


def test_a_comma_too_many_is_refused() -> None:
    """An empty source is no key, and is not left out silently."""
    environ = {"AUDIT_BASE_DIR": "audit", "AUDIT_SERVICE_ID": "orders", "AUDIT_TRANSPARENCY_KEY": "credential:new,"}
    with pytest.raises(ConfigError, match=r"give a path.*AUDIT_TRANSPARENCY_KEY"):
        AuditConfig.from_env(environ=environ)


@pytest.mark.parametrize(
    ("made", "field", "said"),
    [
        (lambda: Transparency(key="key.pem", intervall=60), "transparency.intervall", "did you mean interval?"),  # type: ignore[call-arg]
        (Transparency, "transparency.key", "missing"),
        (lambda: Transparency("key.pem"), "transparency", "by name"),  # type: ignore[call-arg]
        (lambda: ExternalKey(public_key=bytes(32), sing=bytes), "transparency.key.sing", "did you mean sign?"),  # type: ignore[call-arg]
        (lambda: ExternalKey(sign=bytes), "transparency.key.public_key", "missing"),  # type: ignore[call-arg]
    ],
)
def test_a_misspelt_or_missing_keyword(made: Callable[[], object], field: str, said: str) -> None:
    """It is refused by its name, as in every other group of settings."""
    with pytest.raises(ConfigError, match=re.escape(said)) as refused:
        made()
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", ""),
        ("key", ()),
        ("key", 7),
        ("key", ("key.pem", None)),
        ("key", "~/key.pem"),
        ("key", "-----BEGIN PRIVATE KEY-----\nc2VjcmV0secret\n-----END PRIVATE KEY-----\n"),
        ("key", ("key.pem", "PRIVATE+KEY+log+secret+AAAA")),
        ("passphrase", b"secret"),
        ("passphrase", "line of a secret\n"),
        ("publish_dir", ""),
        ("policy", 7),
        ("guard", "a\0b"),
        ("origin", ""),
        ("origin", "two words"),
        ("origin", "a+b"),
        ("origin", "a\nb"),
        ("origin", "a\u200bb"),
        ("interval", 0),
        ("interval", -1.0),
        ("interval", float("nan")),
        ("interval", float("inf")),
        ("interval", True),
        ("interval", "60"),
        ("witness_timeout", 0.0),
        ("every", 0),
        ("every", 1.5),
        ("every", True),
        ("witnesses", ("only-a-key",)),
        ("witnesses", (7,)),
    ],
)
def test_wrong_values_are_refused_with_the_setting_s_name(field: str, value: object) -> None:
    """A value that can't work is found before the disk is touched, and is not repeated where it may be a secret."""
    settings = {"key": "key.pem"} | {field: value}
    with pytest.raises(ConfigError) as caught:
        Transparency(**settings)  # type: ignore[arg-type]  # wrong on purpose
    assert caught.value.field == f"transparency.{field}"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("public_key", "sign"), [(bytes(31), len), ("x" * 32, len), (bytes(32), None)])
def test_an_external_key_is_a_public_key_and_a_function(public_key: object, sign: object) -> None:
    """Both halves of it are checked."""
    with pytest.raises(ConfigError, match=r"transparency\.key"):
        ExternalKey(public_key=public_key, sign=sign)  # type: ignore[arg-type]  # wrong on purpose


def test_when_a_checkpoint_is_due() -> None:
    """By time or by count, and never for an idle log, whose own checkpoint records don't count."""
    by_time, by_count = Transparency(key="k", interval=60), Transparency(key="k", interval=60, every=100)
    for transparency in (by_time, by_count):
        assert not transparency.is_due(new_records=0, elapsed_s=1e9)
        assert not transparency.is_due(new_records=99, elapsed_s=59.9)
        assert transparency.is_due(new_records=1, elapsed_s=60.0)
    assert by_count.is_due(new_records=100, elapsed_s=0.0)
    assert not by_time.is_due(new_records=10**9, elapsed_s=0.0)


def test_names_of_logs() -> None:
    """A log is called after host, service and instance, where nobody says otherwise."""
    assert default_origin("host.example", "orders", "00") == "host.example/orders/00"
    for host in ("", "my host", "a+b"):
        with pytest.raises(ConfigError, match=r"transparency\.origin"):
            default_origin(host, "orders", "00")
    assert not is_origin(b"bytes")


def test_where_secrets_come_from() -> None:
    """Text may name a credential or a variable; a path object is always a path."""
    assert secret_kind("env:KEY") == ("env", "KEY")
    assert secret_kind("credential:log.key") == ("credential", "log.key")
    assert secret_kind("/etc/key.pem") == ("file", "/etc/key.pem")
    assert secret_kind("c:/key.pem") == ("file", "c:/key.pem")
    assert secret_kind(Path("env:KEY")) == ("file", "env:KEY")


def test_a_configuration_needs_no_cryptography() -> None:
    """A process that only reads configurations loads nothing of the extra `tlog`."""
    code = (
        "import sys, audit_async.config.transparency, audit_async.tlog.merkle; assert 'cryptography' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
