"""Who may do what on NATS servers: the accounts of a tenant, as a file that the servers' configuration includes.

The streams are in one account, hosts are users of another and collectors of a third, which import what they need.
Permissions within one account would not do: a server sends an answer to whatever subject the question names, without
asking whether the sender may publish there. So a host could have its own records stored as those of another, and delete
the stream by naming its deletion as the place for an answer. Between accounts, an answer is not taken for a question.

An inbox is as secret as the records that come to it, so each user has a prefix of its own, which is its public key.

https://docs.nats.io/running-a-nats-service/configuration/securing_nats/accounts
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Final, Literal
from urllib.parse import unquote

import nkeys
from msgspec import Struct, json

from audit_async._durable import disk
from audit_async._durable.lock_waits import lock_within
from audit_async._durable.whole_files import remove_left_over, replace_shared_file
from audit_async.errors import ConfigError
from audit_async.forwarding.identities import escaped
from audit_async.forwarding.nats_connection import inbox_of, public_key_of
from audit_async.forwarding.nats_names import confirmations_of, descriptions_of, stream_of

__all__ = ["API_PREFIX", "Accounts", "Member", "new_key"]

#: Under which name an account has the API that it imports: `$JS.API` would be its own.
API_PREFIX: Final = "audit_api"
_API: Final = "$JS.API"
_MEMBER: Final = re.compile(r"# (admin|system|host|collector) (\S+) (U[A-Z2-7]{55})")
#: How long another process is waited for that changes the file: it is no longer than one write.
_WAIT_S: Final = 30.0
_READABLE: Final = 0o644  # the servers read it, and there is no secret in it


class Member(Struct, frozen=True, kw_only=True):
    """Somebody who has a key."""

    kind: Literal["admin", "system", "host", "collector"]
    name: str
    nkey: str  #: the public key


class Accounts:
    """The accounts of a tenant, in a file.

    Args:
        path: the file.
        tenant: whose accounts they are.
    """

    def __init__(self, path: Path, tenant: str) -> None:
        self.path: Final = path
        self._tenant: Final = tenant
        self._title: Final = f"# Accounts of tenant {escaped(tenant)} for nats-server."
        self._changing: Final = RLock()
        self.members: list[Member] = []

    def load(self) -> bool:
        """Read the members; return whether the file is as this release writes it.

        Raises:
            ConfigError: there is no such file, or it is not that of this tenant.
        """
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                "accounts", f"{self.path} can't be read: {error}; audit-async engine init makes it"
            ) from None
        if text.partition("\n")[0] != self._title:
            raise ConfigError("accounts", f"{self.path} does not hold the accounts of tenant {self._tenant!a}")
        found = (_MEMBER.fullmatch(line) for line in text.splitlines())
        members = [
            Member(kind=match[1], name=unquote(match[2]), nkey=match[3])  # type: ignore[arg-type]  # as in the pattern
            for match in found
            if match is not None
        ]
        with self._changing:  # the members that another thread is changing are not these
            self.members = members
            return text == self.text()

    @contextlib.contextmanager
    def changed(self) -> Iterator[None]:
        """Read the members, let them be changed, and write them; one thread of one process at a time. Blocks.

        Raises:
            ConfigError: another process has been changing them for too long, or the file is not that of this tenant.
            OSError: it can't be written.
        """
        with self._changing:
            lock = disk.open_or_create_file(f"{self.path}.lock", dir_fd=None)
            try:
                if not lock_within(lock, _WAIT_S):
                    raise ConfigError(
                        "accounts",
                        f"another process has been changing {self.path} for {_WAIT_S:g} s, and nothing was changed "
                        "here; look what has opened the file of this name with .lock at its end, and try again",
                    )
                if self.path.exists():
                    self.load()
                yield
                self._write()
            finally:
                disk.close_lock(lock)

    def put(self, member: Member) -> None:
        """Add a member, in the place of one of the same kind and name."""
        self.remove(member.kind, member.name)
        self.members.append(member)

    def remove(self, kind: str, name: str) -> bool:
        """Remove a member; return whether there was one."""
        left = [one for one in self.members if (one.kind, one.name) != (kind, name)]
        removed = len(left) < len(self.members)
        self.members = left
        return removed

    def text(self) -> str:
        """Return what the file holds."""
        lines = [
            self._title,
            f'# In the configuration of each server: accounts {{ include "{self.path.name}" }}',
            "# Written by `audit-async engine`, which overwrites changes by hand, and whose `check` reports them.",
            *(f"# {member.kind} {escaped(member.name)} {member.nkey}" for member in self.members),
        ]
        lines += [f'"{name}": {json.encode(account).decode()}' for name, account in self._accounts().items()]
        return "\n".join(lines) + "\n"

    def _accounts(self) -> dict[str, dict[str, object]]:
        owner = f"audit.{escaped(self._tenant)}"
        hosts, collectors = self._for_hosts(""), self._for_collectors()
        exported = sorted({*hosts, *collectors})
        accounts: dict[str, dict[str, object]] = {
            owner: {
                "jetstream": "enabled",
                "users": self._users("admin", lambda _: self._for_administrators()),
                "exports": [{"service": subject} for subject in exported],
            },
            f"{owner}.hosts": {
                "users": self._users("host", lambda name: list(map(_imported, self._for_hosts(f"*.{escaped(name)}.")))),
                "imports": [_import(owner, subject) for subject in hosts],
            },
            f"{owner}.collectors": {
                "users": self._users("collector", lambda _: list(map(_imported, collectors))),
                "imports": [_import(owner, subject) for subject in collectors],
            },
        }
        if system := self._users("system", lambda _: ["$SYS.REQ.SERVER.PING.*", "$SYS.REQ.SERVER.*.RELOAD"]):
            accounts["$SYS"] = {"users": system}
        return accounts

    def _users(self, kind: str, may: Callable[[str], list[str]]) -> list[dict[str, object]]:
        return [
            {
                "nkey": member.nkey,
                "permissions": {"publish": may(member.name), "subscribe": [f"{inbox_of(member.nkey)}.>"]},
            }
            for member in self.members
            if member.kind == kind
        ]

    def _streams(self) -> tuple[str, str, str]:
        return stream_of(self._tenant), confirmations_of(self._tenant), descriptions_of(self._tenant)

    def _for_administrators(self) -> list[str]:
        calls = ("CREATE", "UPDATE", "INFO")
        return [f"{_API}.STREAM.{call}.{stream}" for stream in self._streams() for call in calls]

    def _for_hosts(self, own: str) -> list[str]:
        """Return the subjects for one host's logs, `own` being their middle, or for those of all."""
        logs = f"{escaped(self._tenant)}.{own}>"
        records, confirmations, descriptions = self._streams()
        return [
            f"audit.{logs}",
            f"audit_described.{logs}",
            # By subject only: the form without one would let a host read everybody's records.
            f"{_API}.DIRECT.GET.{records}.audit.{logs}",
            f"{_API}.DIRECT.GET.{confirmations}.audit_confirmed.{logs}",
            f"{_API}.DIRECT.GET.{descriptions}.audit_described.{logs}",
        ]

    def _for_collectors(self) -> list[str]:
        logs = f"{escaped(self._tenant)}.>"
        records = stream_of(self._tenant)
        return [
            f"audit_confirmed.{logs}",
            *self._for_hosts("")[2:],
            f"{_API}.DIRECT.GET.{records}",
            f"{_API}.STREAM.MSG.GET.{records}",
            f"{_API}.STREAM.INFO.{records}",
        ]

    def _write(self) -> None:
        """Replace the file as a whole: a server that reads it meanwhile has the old one or the new one."""
        path = self.path.absolute()
        directory = disk.open_directory(str(path.parent), follow=True)
        try:
            readable = partial(disk.change_mode, mode=_READABLE)
            replace_shared_file(directory, path.name, self.text().encode(), prepare=readable)
            remove_left_over(directory, path.name)
        finally:
            disk.close(directory)


def _imported(subject: str) -> str:
    """Return what a subject is called in an account that imports it."""
    return subject.replace(_API, API_PREFIX)


def _import(owner: str, subject: str) -> dict[str, object]:
    return {"service": {"account": owner, "subject": subject}, "to": _imported(subject)}


def new_key(path: Path, field: str) -> str:
    """Write the seed of a new key to a new file that only its owner can read; return the public key.

    Raises:
        ConfigError: the file is there already, or can't be made.
    """
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    try:
        fd = disk.create_file(str(path), dir_fd=None)
    except FileExistsError:
        raise ConfigError(field, f"{path} is there already; name a new file") from None
    except OSError as error:
        raise ConfigError(field, f"{path} can't be made: {error.strerror}") from None
    try:
        disk.write_at(fd, seed, 0)
        disk.sync_data(fd)
    finally:
        disk.close(fd)
    return public_key_of(seed)
