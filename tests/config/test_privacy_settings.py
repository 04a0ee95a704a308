"""The settings of `AuditConfig.privacy`: what they allow, from which source, and what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from audit_async import AuditConfig, Disabled, Local
from audit_async.config import Privacy, RetentionPolicy
from audit_async.config.key_store_settings import ExternalMasterKey
from audit_async.errors import ConfigError

KMS = ExternalMasterKey(name="kms", wrap=lambda key, _: key, unwrap=lambda key, _: key)


def privacy(**settings: Any) -> Privacy:
    """Return settings that are allowed, but for what is given."""
    return Privacy(**{"key_store": "/var/lib/keys", "master_key": "env:KEY", **settings})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key_store", ""),
        ("key_store", "~/keys"),
        ("key_store", 7),
        ("master_key", None),
        ("master_key", b"K" * 32),
        ("master_key", "KKKK" + "A" * 39 + "="),
        ("master_key", "file:KKKK" + "A" * 39 + "="),
        ("master_key", "0123" * 16),
        ("master_key", "env:"),
        ("seal", 7),
        ("seal", ["a b"]),
        ("seal", [7]),
        ("context", ("a:b:c",)),
        ("paths", ("users/{user}",)),
        ("normalize", "NFD"),
        ("tenant_binding", "a b"),
        ("forget_after_days", 0),
        ("cached_subjects", 0),
    ],
)
def test_a_wrong_value_is_refused_by_name(field: str, value: object) -> None:
    """With the setting's dotted name; a master key's text is never shown."""
    with pytest.raises(ConfigError) as caught:
        privacy(**{field: value})
    assert caught.value.field == f"privacy.{field}"
    assert "KKKK" not in str(caught.value)
    assert "01230123" not in str(caught.value)


def test_what_is_sealed_is_chosen_by_name() -> None:
    """All, or members by their own name, their path, or what they are in."""
    assert privacy().seals("actor.user_id")
    some = privacy(seal={"actor", "request_body.text", "ip", "context.client_ip"})
    assert some.seals("actor.session_id")
    assert some.seals("ip")
    assert some.seals("request_body.text")
    assert not some.seals("user_agent")
    assert not some.seals("response_body.text")
    assert some.personal_bindings() == {"client_ip": "", "ip": ""}
    assert privacy(context=("user_id:customer", "mail")).personal_bindings() == {"user_id": "customer", "mail": ""}


@pytest.mark.parametrize(
    ("path", "kind", "id_"),
    [
        ("/users/alice", "user", "alice"),
        ("/users/alice/", "user", "alice"),
        ("/users/alice?page=1", "user", "alice"),
        ("/users/alice/?q=a\nb", "user", "alice"),
        ("/users/alice/orders/7?page=1", "user", "alice"),
        ("/c/42/x/43", "customer", "42"),
        ("/health/a.b", None, None),
    ],
)
def test_a_path_names_a_person(path: str, kind: str | None, id_: str | None) -> None:
    """The first person in it is its subject; a star is nobody."""
    matcher = privacy(
        paths=("/users/{user}", "/users/{user}/orders/*", "/c/{customer}/x/{user}", "/health/*")
    ).path_matcher()
    assert matcher is not None
    found = matcher(path)
    assert found is not None
    assert (found.lastgroup and found.lastgroup.rpartition("_")[0]) == kind
    assert (found.lastgroup and found[found.lastgroup]) == id_
    for other in ("/users", "/users/a/b", "/users/alice/orders/7/8", "/health/", "/healthy/a"):
        assert matcher(other) is None
    assert privacy().path_matcher() is None


def test_settings_come_from_the_environment_and_from_a_file(tmp_path: Path) -> None:
    """Texts become what they mean, also of settings that may be left out; relative paths count from the file."""
    config = AuditConfig.from_env(
        environ={
            "AUDIT_BASE_DIR": "/audit",
            "AUDIT_SERVICE_ID": "orders",
            "AUDIT_PRIVACY_KEY_STORE": "/keys",
            "AUDIT_PRIVACY_MASTER_KEY": "passphrase:env:KEY",
            "AUDIT_PRIVACY_SEAL": "actor, ip",
            "AUDIT_PRIVACY_FORGET_AFTER_DAYS": "3000",
        }
    )
    assert config.privacy == Privacy(
        key_store="/keys", master_key="passphrase:env:KEY", seal=("actor", "ip"), forget_after_days=3000
    )
    (tmp_path / "audit.toml").write_text(
        'service_id = "orders"\n[mode]\ntype = "local"\nbase_dir = "trail"\n'
        '[privacy]\nkey_store = "keys"\nmaster_key = "file:master"\nseal = ["ip"]\n'
    )
    loaded = AuditConfig.load(tmp_path / "audit.toml").privacy
    assert loaded == Privacy(key_store=str(tmp_path / "keys"), master_key=f"file:{tmp_path / 'master'}", seal=("ip",))
    assert privacy(master_key=KMS).below(tmp_path).master_key is KMS


def test_a_number_that_may_be_left_out_is_read_from_the_environment() -> None:
    """As every other number: `transparency.every` was refused as text."""
    config = AuditConfig.from_env(
        environ={"AUDIT_MODE": "disabled", "AUDIT_TRANSPARENCY_KEY": "env:KEY", "AUDIT_TRANSPARENCY_EVERY": "100"}
    )
    assert config.transparency is not None
    assert config.transparency.every == 100


def test_forgetting_before_the_records_may_go_has_to_be_meant() -> None:
    """Records that must be kept lose what is personal in them only if the configuration says so."""
    kept = RetentionPolicy(min_retention_days=365)
    with pytest.raises(ConfigError, match="forget_before_retention"):
        AuditConfig(mode=Disabled(), retention=kept, privacy=privacy(forget_after_days=364))
    AuditConfig(mode=Disabled(), retention=kept, privacy=privacy(forget_after_days=365))
    meant = privacy(forget_after_days=30, forget_before_retention=True)
    assert AuditConfig(mode=Local("/audit"), service_id="s", retention=kept, privacy=meant).privacy is meant
