"""What was found out about the settings of an engine or a bucket, for a person or a program."""

from __future__ import annotations

from audit_async.cli.run import ExitStatus
from audit_async.cli.terminal import Cell, Column, Output
from audit_async.forwarding.engine_admin import CheckedSetting

__all__ = ["show_settings"]


def show_settings(output: Output, found: list[CheckedSetting]) -> ExitStatus:
    """Write what was looked at, to a person only what is not as it should be; return the command's exit status."""
    wrong = sum(one.verdict == "wrong" for one in found)
    if output.as_json:
        output.document({"ok": not wrong, "settings": found})
    else:
        _show_table(output, [one for one in found if one.verdict != "ok"])
        if wrong:
            output.line(Cell(f"{wrong} wrong", "red"), f"  of {len(found)} that were looked at")
        else:
            output.line(Cell("ok", "green"), f"  all {len(found)} that were looked at are as they have to be")
    return ExitStatus.FINDINGS if wrong else ExitStatus.OK


def _show_table(output: Output, shown: list[CheckedSetting]) -> None:
    if not shown:
        return
    output.table(
        [Column(""), Column("what"), Column("is"), Column("should be"), Column("what to do")],
        [
            (
                Cell(one.verdict, "red" if one.verdict == "wrong" else "yellow"),
                one.name,
                one.found,
                one.wanted,
                one.fix,
            )
            for one in shown
        ],
    )
