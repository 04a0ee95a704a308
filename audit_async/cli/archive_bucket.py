"""The bucket that commands are given: its option's text, and opening it, which needs an extra."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import typer

if TYPE_CHECKING:
    from audit_async.forwarding.worm_archive import WormArchive

__all__ = ["BUCKET_HELP", "open_archive"]

BUCKET_HELP: Final = (
    "s3://BUCKET/PREFIX?endpoint=URL&region=NAME&profile=NAME. Credentials come from AWS_PROFILE, AWS_ACCESS_KEY_ID "
    "and AWS_SECRET_ACCESS_KEY, or the machine's role."
)


def open_archive(url: str) -> WormArchive:
    """Return the bucket that a URL names; nothing is connected yet.

    Raises `typer.BadParameter` if the extra s3 is missing, `ConfigError` for a wrong URL.
    """
    try:
        from audit_async.forwarding.worm_archive import WormArchive  # noqa: PLC0415 - needs boto3
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in {"boto3", "botocore"}:
            raise
        raise typer.BadParameter(
            "a bucket needs the extra s3; install it with: pip install 'audit-async[cli,s3]'"
        ) from None
    return WormArchive(url)
