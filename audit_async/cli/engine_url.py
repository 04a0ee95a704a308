"""The engine's URL on the command line."""

from __future__ import annotations

import typer

from audit_async.forwarding.engine_admin import has_password

__all__ = ["refuse_password"]


def refuse_password(context: typer.Context, parameter: str, option: str, url: str) -> None:
    """Raise `typer.BadParameter` for a URL with a password, or a token, that is not from the environment."""
    source = context.get_parameter_source(parameter)
    if source is not None and source.name == "COMMANDLINE" and not url.startswith("file:") and has_password(url):
        raise typer.BadParameter(
            f"{option}: every user of this machine sees a password on a command line: put it into a file that only you "
            "can read, and its name into the URL (?passfile=FILE), or the URL into AUDIT_ENGINE_URL"
        )
