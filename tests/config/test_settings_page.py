"""The page of all settings is what the classes say."""

from __future__ import annotations

from typer.core import TyperGroup
from typer.main import get_command

from audit_async.cli.app import command_line
from audit_async.config import AuditConfig
from audit_async.config.environment import COMMAND_VARIABLES, variables_of
from site_build.settings_page import PAGE, page


def test_the_page_is_up_to_date() -> None:
    """`python -m site_build.settings_page` makes it again."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_variable_of_a_command_is_known_as_one() -> None:
    """Otherwise a service would warn of it, or refuse it as a misspelt setting."""
    found: set[str] = set()
    commands = [get_command(command_line())]
    while commands:
        command = commands.pop()
        if isinstance(command, TyperGroup):
            commands += command.commands.values()
        for parameter in command.params:
            named = parameter.envvar or ()
            found |= {named} if isinstance(named, str) else set(named)
    assert "AUDIT_KEY_STORE" in found
    assert found == COMMAND_VARIABLES
    assert COMMAND_VARIABLES & variables_of(AuditConfig, "AUDIT_").keys() == {"AUDIT_BASE_DIR"}
