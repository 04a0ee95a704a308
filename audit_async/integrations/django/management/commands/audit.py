"""`manage.py audit`: the commands of `audit-async` for one trail, and for a person in it, for that of this project."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser

from audit_async.config import AuditConfig, Local
from audit_async.errors import ConfigError
from audit_async.integrations.django.django_settings import log_config

__all__ = ["Command"]

#: The commands whose first argument is the place of a trail.
_COMMANDS: Final = ("verify", "query", "tail", "show", "stats", "export", "doctor", "erase", "subject-data")
#: Those that are about a person, and need the key store. The others show what is sealed only if they are asked to.
_OF_A_PERSON: Final = frozenset({"erase", "subject-data"})


class Command(BaseCommand):
    """Runs a command of `audit-async` with the directory that the settings name."""

    help = (
        "Read or check the audit trail of this project, as in `manage.py audit verify` or `manage.py audit query "
        "--actor alice`, or erase a person, as in `manage.py audit erase --subject alice --reason 'request 4711' --by "
        "'R. Roe'`, with the key store of the settings. What comes after the command is passed on; `manage.py audit "
        "query --help` shows its options. Needs the extra `cli`."
    )
    _passed_on: tuple[str, ...] | list[str] = ()
    requires_system_checks: Final[list[str]] = []  # a trail can be read though the service could not be started

    def add_arguments(self, parser: CommandParser) -> None:
        """Take the command."""
        parser.add_argument("command", choices=_COMMANDS, help="a command of audit-async, and its own options after it")

    def run_from_argv(self, argv: list[str]) -> None:
        """Run, and pass on what Django's parser does not know."""
        at = next((index for index, word in enumerate(argv[2:], 2) if word in _COMMANDS), len(argv) - 1)
        self._passed_on = argv[at + 1 :]
        super().run_from_argv(argv[: at + 1])

    def handle(self, *_: object, **options: Any) -> None:
        """Run the command in a process of its own; its exit status is that of `audit-async`."""
        config = _config()
        arguments = [options["command"], _place(config), *self._passed_on]
        environment = os.environ | (_keys(config) if options["command"] in _OF_A_PERSON else {})
        status = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-m", "audit_async.cli", *arguments], env=environment, check=False
        ).returncode
        if status:
            sys.exit(status)


def _config() -> AuditConfig:
    """Return the configuration of the project's logs; raises `CommandError` if the settings have none."""
    try:
        return log_config()
    except ConfigError as error:
        raise CommandError(f"the audit trail can't be found: {error}", returncode=2) from error


def _place(config: AuditConfig) -> str:
    """Return the directory of the project's logs; raises `CommandError` if the settings name none."""
    if not isinstance(config.mode, Local):
        raise CommandError("the settings switch recording off (mode is disabled), so there is no trail", returncode=2)
    return f"{config.mode.base_dir}/{config.service_id}"


def _keys(config: AuditConfig) -> dict[str, str]:
    """Return the environment that says which key store the settings name; options of the command prevail over it."""
    if config.privacy is None:
        return {}  # the command says what it needs, unless an option or the environment gives it
    key_store, master_key = config.privacy.key_store, config.privacy.master_key
    if not isinstance(key_store, str) or not isinstance(master_key, str):
        raise CommandError(
            "the key store or the master key of the settings is an object, which another process can't be given; call "
            "get_audit().erase_subject(...) in `manage.py shell`",
            returncode=2,
        )
    return {"AUDIT_KEY_STORE": key_store, "AUDIT_MASTER_KEY": master_key}
