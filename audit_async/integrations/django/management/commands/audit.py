"""`manage.py audit`: the commands of `audit-async` that read a trail, for the trail of this project."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser

from audit_async.config import Local
from audit_async.errors import ConfigError
from audit_async.integrations.django.django_settings import log_config

__all__ = ["Command"]

#: The commands whose first argument is the place of a trail.
_COMMANDS: Final = ("verify", "query", "tail", "show", "stats", "export", "doctor")


class Command(BaseCommand):
    """Runs a command of `audit-async` with the directory that the settings name."""

    help = (
        "Read or check the audit trail of this project, as in `manage.py audit verify` or `manage.py audit query "
        "--actor alice`. What comes after the command is passed on; `manage.py audit query --help` shows its options. "
        "Needs the extra `cli`."
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
        arguments = [options["command"], _place(), *self._passed_on]
        status = subprocess.run([sys.executable, "-m", "audit_async.cli", *arguments], check=False).returncode  # noqa: S603 - our own program
        if status:
            sys.exit(status)


def _place() -> str:
    """Return the directory of the project's logs; raises `CommandError` if the settings name none."""
    try:
        config = log_config()
    except ConfigError as error:
        raise CommandError(f"the audit trail can't be found: {error}", returncode=2) from error
    if not isinstance(config.mode, Local):
        raise CommandError("the settings switch recording off (mode is disabled), so there is no trail", returncode=2)
    return f"{config.mode.base_dir}/{config.service_id}"
