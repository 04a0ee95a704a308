"""What of an event is personal, who may be erased, and where the keys are: the settings of `AuditConfig.privacy`.

How members are sealed and keys are kept is the subject of `audit_async.privacy`, which needs the extra `privacy`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ClassVar, Final, Self

import msgspec
from msgspec import Meta

from audit_async.config.erasure_rules import ErasureRules, delay_seconds
from audit_async.config.key_store_settings import ExternalMasterKey, Normalization, split_master_key_source
from audit_async.config.setting import Flag, Settings, whole_number
from audit_async.config.transparency import secret_kind
from audit_async.config.wording import shown
from audit_async.errors import ConfigError

_NAME: Final = "[A-Za-z_][A-Za-z0-9_]{0,63}"
_Members = Annotated[
    tuple[Annotated[str, Meta(pattern=rf"^{_NAME}(?:\.{_NAME})*\Z", max_length=200)], ...],
    Meta(description="names of members, dotted for one in another; in a variable joined by commas"),
]
_Bindings = Annotated[
    tuple[Annotated[str, Meta(pattern=rf"^{_NAME}(?::{_NAME})?\Z")], ...],
    Meta(description='names bound by audit_context, with ":kind" for the id of a person ("user_id:user")'),
]
_Paths = Annotated[
    tuple[Annotated[str, Meta(pattern=r"^/[^\0]*\Z", max_length=1000)], ...],
    Meta(description='paths such as "/users/{user}/orders/*"; in a variable joined by commas'),
]
_Resources = Annotated[
    tuple[Annotated[str, Meta(pattern=r"^[^,\0]{1,64}\Z")], ...],
    Meta(description="types of resources, as events name them; in a variable joined by commas"),
]
_SEAL_ALLOWED: Final = '"all", or the names of personal members such as ("actor", "ip")'
_STORE_ALLOWED: Final = "a path outside of the trail, or a KeyStore"
_KEY_ALLOWED: Final = "file:PATH, env:NAME, credential:NAME, one of them after passphrase:, or an ExternalMasterKey"
_DELAY_ALLOWED: Final = 'left out, whole days up to 366, or a duration such as "P7D" or "PT12H"'
_STEP: Final = re.compile(rf"\{{({_NAME})\}}|\*")


class Privacy(Settings, frozen=True, kw_only=True):
    """Personal members are sealed under keys of their subjects, who can be erased by destroying those.

    Args:
        key_store: Where the keys are: a path outside of the trail, made by `audit-async keystore init`, or a `KeyStore`
            of your own. Back it up apart from the trail, and after it: without keys all that is sealed is lost.
        master_key: The source of the key that encrypts the key store.
        seal: What is sealed: "all" that events declare as `Personal`, or the named members (`actor` for all that is
            personal in it, `ip` for every member of that name).
        context: The values of `audit_context` that are personal. `user_id:user` is the id of a person, of the kind
            `user`, whose key seals it; any other is sealed under the day's common key.
        paths: Paths that name a person. In `/users/{user}/orders/*` the second part is an id of the kind `user`, and
            `*` is any one part; a path that is listed is sealed as a whole. A slash at its end makes no difference.
        resources: The types of resources whose ids are persons (`customer`): the id is a subject of that kind.
        tenant_binding: The value of `audit_context` that names the tenant, if ids are unique only within one; then
            erasing a person needs the tenant as well.
        normalize: What makes two spellings of an id the same person (Unicode form NFC, NFC and no case, or nothing), if
            the key store is to be refused that was made with another.
        forget_after_days: After so many days the keys of a day are destroyed, whoever it was about; None never does.
        forget_before_retention: Allow that to be before `retention.min_retention_days`: records are kept, and
            what is personal in them is not.
        erase_not_before_days: No key is destroyed before it is this many days old: the window in which an incident is
            noticed. Erasures wait for it, and forgetting must not come before it.
        erasure_delay: How long an erasure waits between its request and its execution, and can be cancelled: whole
            days, or an ISO 8601 duration such as "P7D" or "PT12H". `erase_subject` then refuses, and `request_erasure`
            is how to ask for it.
        two_person: An erasure is requested by one person and approved by another, in two calls; `erase_subject` then
            refuses. These three are fixed in the key store once a log has asked for them, and hold for all who use it.
        cached_subjects: How many persons' keys are kept in memory, 3 KiB each. One who comes again after that gets
            another key for the same day.

    Raises:
        ConfigError: If a value is not allowed.
    """

    _path: ClassVar[str] = "privacy."

    key_store: Annotated[object, Meta(description=_STORE_ALLOWED)]
    master_key: Annotated[object, Meta(description=_KEY_ALLOWED)] = None
    seal: Annotated[object, Meta(description=_SEAL_ALLOWED)] = "all"
    context: _Bindings = ("user_id:user", "client_ip", "ip", "email", "session_id", "http_user_agent")
    paths: _Paths = ()
    resources: _Resources = ()
    tenant_binding: Annotated[
        Annotated[str, Meta(pattern=rf"^{_NAME}\Z")] | None, Meta(description="left out, or a name in audit_context")
    ] = None
    normalize: Annotated[
        Normalization | None, Meta(description="left out, or 'NFC', 'NFC-casefold' or 'none', as the key store has it")
    ] = None
    forget_after_days: Annotated[
        Annotated[int, whole_number(1, 36_500, "days")] | None, Meta(description="left out, or whole days from 1")
    ] = None
    forget_before_retention: Flag = False
    erase_not_before_days: Annotated[
        Annotated[int, whole_number(1, 3_650, "days")] | None,
        Meta(description="left out, or whole days from 1"),
    ] = None
    erasure_delay: Annotated[int | str | None, Meta(description=_DELAY_ALLOWED)] = None
    two_person: Flag = False
    cached_subjects: Annotated[int, whole_number(1, 1_000_000, "persons")] = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field = msgspec.structs.force_setattr
        if isinstance(self.key_store, str | os.PathLike):
            path = os.fspath(self.key_store)
            if not isinstance(path, str) or not path or path.startswith("~") or "\0" in path:
                raise ConfigError("privacy.key_store", f"{shown(path)} is not allowed; allowed: {_STORE_ALLOWED}")
            set_field(self, "key_store", path)
            self._check_master_key()
        elif not callable(getattr(self.key_store, "open_session", None)):
            raise ConfigError("privacy.key_store", f"{shown(self.key_store)} is not allowed; allowed: {_STORE_ALLOWED}")
        set_field(self, "seal", _names_to_seal(self.seal))
        if self.erasure_delay is not None and delay_seconds(self.erasure_delay) is None:
            raise ConfigError(
                "privacy.erasure_delay", f"{shown(self.erasure_delay)} is not allowed; allowed: {_DELAY_ALLOWED}"
            )
        window = self.erase_not_before_days
        if window is not None and self.forget_after_days is not None and self.forget_after_days < window:
            raise ConfigError(
                "privacy.forget_after_days",
                f"{self.forget_after_days} days is before privacy.erase_not_before_days, {window}: keys would be "
                "destroyed by age that must not be destroyed yet",
            )

    def _check_master_key(self) -> None:
        given = self.master_key
        if isinstance(given, str):
            split_master_key_source(given)
        elif not isinstance(given, ExternalMasterKey):  # not shown: it may be the key itself
            raise ConfigError("privacy.master_key", f"missing or not allowed; allowed: {_KEY_ALLOWED}")

    def erasure_rules(self) -> ErasureRules:
        """Return what erasures have to wait for, as far as these settings ask for it."""
        return ErasureRules(
            delay_s=delay_seconds(self.erasure_delay) or 0,
            not_before_days=self.erase_not_before_days or 0,
            two_person=self.two_person,
        )

    def seals(self, name: str) -> bool:
        """Return whether a personal member is sealed.

        Args:
            name: Its dotted path in the event, without `[]` and `{}`; `context.` and its name for a value of the
                context.
        """
        if self.seal == "all":
            return True
        assert isinstance(self.seal, tuple)  # noqa: S101 - as __post_init__ has made it
        parts = name.split(".")
        return any(chosen == name or chosen in parts or name.startswith(f"{chosen}.") for chosen in self.seal)

    def personal_bindings(self) -> dict[str, str]:
        """Return the personal values of the context that are sealed: by name the kind, empty if it is nobody's id."""
        named = dict(binding.partition(":")[::2] for binding in self.context)
        return {name: kind for name, kind in named.items() if self.seals(f"context.{name}")}

    def path_matcher(self) -> Callable[[str], re.Match[str] | None] | None:
        """Return what matches a path that is listed, None if none is.

        The match's `lastgroup` is `kind_N` of the part that is a person's id, None if the path has none.
        """
        if not self.paths:
            return None
        patterns = [_pattern(path, number) for number, path in enumerate(self.paths)]
        return re.compile("|".join(patterns)).fullmatch

    def below(self, directory: Path) -> Self:
        """Return the same with relative paths counted from `directory`: for settings that come from a file there."""
        key_store, master_key = self.key_store, self.master_key
        if isinstance(key_store, str):
            key_store = str(directory / key_store)
        if isinstance(master_key, str):
            source, is_passphrase = split_master_key_source(master_key)
            if secret_kind(source)[0] == "file":
                master_key = f"{'passphrase:' if is_passphrase else ''}file:{directory / source}"
        return msgspec.structs.replace(self, key_store=key_store, master_key=master_key)


def _names_to_seal(given: object) -> object:
    """Return what `seal` means: "all", or a tuple of names."""
    if isinstance(given, str):
        given = given if given == "all" else tuple(part.strip() for part in given.split(","))
    if given == "all":
        return given
    if isinstance(given, set | frozenset | list | tuple):
        try:
            return msgspec.convert(sorted(given), _Members)
        except (msgspec.ValidationError, TypeError):
            pass
    raise ConfigError("privacy.seal", f"{shown(given)} is not allowed; allowed: {_SEAL_ALLOWED}")


def _pattern(path: str, number: int) -> str:
    """Return the regular expression of a path; its first person is the group `kind_N`."""
    parts: list[str] = []
    at = 0
    person = False
    for step in _STEP.finditer(path):
        parts.append(re.escape(path[at : step.start()]))
        parts.append(f"(?P<{step[1]}_{number}>[^/?]+)" if step[1] and not person else "[^/?]+")
        person = person or step[1] is not None
        at = step.end()
    end = path[at:].rstrip("/")  # a server redirects from the one form to the other, so both are requested
    return "".join([*parts, re.escape(end), r"/*(?s:\?.*)?"])
