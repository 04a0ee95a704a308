"""A Typer script whose commands are in a trail. `python -m examples.typer_script grant dana admin --by root`.

A command is a plain function, so its log is opened for as long as it runs. No user reads "done" before the record of
it is on stable storage.
"""

import getpass
from pathlib import Path
from typing import Annotated

import typer

from audit_async import ActorInfo, AuditConfig, AuditEvent, AuditLogger, AuthMethod, Local, Position, run
from audit_async.events import DataDeleted, PermissionChanged

app = typer.Typer(help="Administer an imaginary service.", no_args_is_help=True)

Directory = Annotated[Path, typer.Option("--audit-dir", envvar="AUDIT_BASE_DIR", help="Where the trail is.")]
By = Annotated[str, typer.Option("--by", help="Who does it.", default_factory=getpass.getuser)]


def record(event: AuditEvent, directory: Path) -> None:
    """Record one event, and return when it is durable."""

    async def main() -> Position:
        async with AuditLogger(AuditConfig(mode=Local(directory), service_id="admin")) as audit:
            return await audit.emit_durable(event)

    position = run(main)
    typer.echo(f"record {position.seq}, {position.hash[:16]}…")


@app.command()
def grant(user: str, role: str, by: By, audit_dir: Directory = Path("./audit")) -> None:
    """Give USER another ROLE."""
    actor = ActorInfo(user_id=by, auth_method=AuthMethod.INTERNAL)
    record(PermissionChanged(actor=actor, subject=user, old_permissions=[], new_permissions=[role]), audit_dir)


@app.command()
def forget(customer: str, reason: str, audit_dir: Directory = Path("./audit")) -> None:
    """Delete the data of CUSTOMER."""
    record(DataDeleted(customer_id=customer, data_types=["orders"], reason=reason), audit_dir)


if __name__ == "__main__":
    app()
