"""The configuration of a log: what may be set, what each setting promises, and where settings come from.

Every object in here is frozen and valid: a value that can't work, and a misspelt keyword, raises `ConfigError`,
with the setting's dotted name, what was given and what is allowed, before anything touches the disk. Settings
come from code (`AuditConfig(...)`), a TOML file (`AuditConfig.load`), the environment (`AuditConfig.from_env`) or a
named starting point (`AuditConfig.preset`). Nothing in here looks at the file system but `load`, which reads its one
file.

| module | subject |
| --- | --- |
| `audit_config` | all settings of one log, and how they fit together |
| `mode`, `flush_mode`, `segments`, `redaction` | the groups of settings, each with what it promises |
| `archive_recipients` | the public keys that archives are encrypted to |
| `privacy_settings`, `key_store_settings` | personal data: what is sealed, where its keys are |
| `presets`, `overrides` | starting points, and what replaces their settings |
| `toml_file`, `environment` | the sources, each read into a table |
| `tables` | making settings of a table |
| `setting`, `settings_class`, `wording` | what a setting is, how it is checked and called; what an error says |
"""

from audit_async.config.audit_config import AuditConfig
from audit_async.config.flush_mode import Batched, FlushMode, Hybrid, Immediate
from audit_async.config.forward_settings import Forward
from audit_async.config.mode import Disabled, Local, Mode
from audit_async.config.presets import PresetName
from audit_async.config.privacy_settings import Privacy
from audit_async.config.redaction import Redaction
from audit_async.config.segments import RetentionPolicy, RotationPolicy
from audit_async.config.transparency import ExternalKey, KeySource, SecretSource, SignFunction, Transparency
from audit_async.config.verification_settings import Verification

__all__ = [
    "AuditConfig",
    "Batched",
    "Disabled",
    "ExternalKey",
    "FlushMode",
    "Forward",
    "Hybrid",
    "Immediate",
    "KeySource",
    "Local",
    "Mode",
    "PresetName",
    "Privacy",
    "Redaction",
    "RetentionPolicy",
    "RotationPolicy",
    "SecretSource",
    "SignFunction",
    "Transparency",
    "Verification",
]
