"""Whether a bucket really locks what is stored in it: its settings, and a canary whose deletion has to be refused.

Settings alone prove nothing. There are servers that take every request of Object Lock, answer that an object is
locked, and delete it all the same. So a tiny object is stored like a segment, and then it is tried to delete it, to
shorten its time, and to turn its lock into one that can be bypassed. Each has to be refused.

A refusal may have two reasons: the lock, or that these credentials may delete nothing, as it should be for those that
push. `check` distinguishes them with a second object that is not locked; it has to be run by somebody who may delete.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from botocore.exceptions import ClientError

from audit_async.forwarding.engine_admin import CheckedSetting
from audit_async.forwarding.sink_errors import SinkRefused
from audit_async.forwarding.worm_bucket import Bucket, ObjectVersion, asking
from audit_async.forwarding.worm_objects import CANARY

__all__ = ["check_bucket", "make_bucket", "require_lock"]

#: How long a canary stays: longer than clocks may differ before a server refuses a request's signature.
_CANARY_TIME: Final = timedelta(hours=1)
_CONTENT: Final = b"audit-async tries here whether this bucket locks what is stored in it\n"
_NEW_BUCKET: Final = (
    "make another bucket with `audit-async bucket init`: Object Lock belongs to a bucket from its making on"
)
#: Parts of an upload that a killed process has left are removed after so many days.
_INCOMPLETE_DAYS: Final = 7
_NO_RULE: Final = frozenset({"ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration"})


def make_bucket(bucket: Bucket) -> list[str]:
    """Make the bucket with Object Lock, unless it is there; return what was done.

    Raises:
        SinkRefused: It is there and does not lock, or the server refuses.
        SinkUnavailable: It can't be reached.
    """
    place = bucket.place
    done = []
    try:
        with asking(place, "make the bucket"):
            bucket.client.create_bucket(**_new_bucket(bucket))
        done.append(f"bucket {place.bucket}: made, with Object Lock and versioning")
    except SinkRefused as error:
        if "BucketAlready" not in str(error):
            raise
        done.append(f"bucket {place.bucket}: it was there")
    if wrong := [setting for setting in _settings(bucket) if setting.verdict == "wrong"]:
        raise SinkRefused(f"{place}: {wrong[0].name} is {wrong[0].found}; {wrong[0].fix}")
    if len(done) == 1 and "made" in done[0]:
        done.append(_remove_incomplete_uploads(bucket))
    return done


def check_bucket(bucket: Bucket) -> list[CheckedSetting]:
    """Look at the settings, and try the lock; it leaves one object of 70 bytes that is locked for an hour.

    Raises `SinkRefused` and `SinkUnavailable` if it can't be looked at.
    """
    settings = _settings(bucket)
    if any(setting.verdict == "wrong" for setting in settings):
        return settings
    return [*settings, *_try_lock(bucket, prove=True)]


def require_lock(bucket: Bucket) -> None:
    """Raise `SinkRefused`, which names what is wrong, unless the bucket locks as far as these credentials can find out.

    What they may not look at, since they may push and nothing else, is left to `check_bucket`.
    """
    settings = [*_settings(bucket, is_pusher=True), *_try_lock(bucket, prove=False)]
    wrong = next((setting for setting in settings if setting.verdict == "wrong"), None)
    if wrong is not None:
        raise SinkRefused(f"{bucket.place}: {wrong.name} is {wrong.found} and should be {wrong.wanted}; {wrong.fix}")


# -- settings ----------------------------------------------------------------------------------------------------------


def _settings(bucket: Bucket, *, is_pusher: bool = False) -> list[CheckedSetting]:
    return [_versioning(bucket, is_pusher=is_pusher), *_lock_rule(bucket, is_pusher=is_pusher)]


def _versioning(bucket: Bucket, *, is_pusher: bool) -> CheckedSetting:
    wanted, found = (
        "enabled",
        _answer(
            bucket, lambda: bucket.client.get_bucket_versioning(Bucket=bucket.place.bucket).get("Status", "off").lower()
        ),
    )
    if found is None:
        return _unseen("versioning", wanted, is_pusher=is_pusher)
    verdict = "ok" if found == wanted else "wrong"
    return CheckedSetting(name="versioning", verdict=verdict, found=found, wanted=wanted, fix=_NEW_BUCKET)  # type: ignore[arg-type]  # mypy joins the two literals to str


def _lock_rule(bucket: Bucket, *, is_pusher: bool) -> list[CheckedSetting]:
    """Return whether Object Lock is on, and that no default of the bucket is one that can be bypassed."""
    name, wanted = "Object Lock", "enabled"
    try:
        answer: Any = _answer(
            bucket,
            lambda: bucket.client.get_object_lock_configuration(Bucket=bucket.place.bucket)["ObjectLockConfiguration"],
        )
    except FileNotFoundError:
        return [CheckedSetting(name=name, verdict="wrong", found="off", wanted=wanted, fix=_NEW_BUCKET)]
    if answer is None:
        return [_unseen(name, wanted, is_pusher=is_pusher)]
    if answer.get("ObjectLockEnabled") != "Enabled":
        return [CheckedSetting(name=name, verdict="wrong", found="off", wanted=wanted, fix=_NEW_BUCKET)]
    checked = [CheckedSetting(name=name, verdict="ok", found="enabled", wanted=wanted)]
    rule = answer.get("Rule", {}).get("DefaultRetention", {})
    mode = rule.get("Mode", "none").lower()
    checked.append(
        CheckedSetting(
            name="default lock",
            verdict="wrong" if mode == "governance" else "ok",
            found=f"{mode} mode" if rule else "none",
            wanted="none, or compliance mode",
            fix="remove the bucket's default rule: in governance mode whoever has s3:BypassGovernanceRetention deletes",
        )
    )
    return checked


def _unseen(name: str, wanted: str, *, is_pusher: bool) -> CheckedSetting:
    """Return the verdict on a setting that these credentials may not look at."""
    fix = "give these credentials s3:GetBucketVersioning and s3:GetBucketObjectLockConfiguration"
    return CheckedSetting(
        name=name, verdict="note" if is_pusher else "wrong", found="not to be seen", wanted=wanted, fix=fix
    )


def _answer(bucket: Bucket, ask: Callable[[], Any]) -> Any:  # noqa: ANN401 - an answer as boto3 has it
    """Return an answer, None if these credentials may not ask; raises `FileNotFoundError` if there is no lock rule."""
    with asking(bucket.place, "look at the bucket's settings"):
        try:
            return ask()
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in _NO_RULE:
                raise FileNotFoundError from error
            if code in {"AccessDenied", "403"}:
                return None
            raise


# -- the canary --------------------------------------------------------------------------------------------------------


def _try_lock(bucket: Bucket, *, prove: bool) -> list[CheckedSetting]:
    """Store a canary and try to get rid of it."""
    until = datetime.now(UTC).replace(microsecond=0) + _CANARY_TIME
    canary = bucket.store(_key(), _CONTENT, retain_until=until)
    state = bucket.lock_state(canary)
    checked = [
        CheckedSetting(
            name="mode of a stored object",
            verdict="ok" if state.mode == "COMPLIANCE" else "wrong",
            found=(state.mode or "none").lower(),
            wanted="compliance",
            fix=_NEW_BUCKET,
        ),
        CheckedSetting(
            name="time of a stored object",
            verdict="ok" if state.retain_until is not None and state.retain_until >= until else "wrong",
            found=str(state.retain_until),
            wanted=f"{until} or later",
            fix=_NEW_BUCKET,
        ),
    ]
    name: Any = {"Bucket": bucket.place.bucket, "Key": bucket.place.prefix + canary.key, "VersionId": canary.version}
    earlier = until - _CANARY_TIME / 2
    attempts: dict[str, Callable[[], object]] = {
        "shortening the time of a locked object": lambda: bucket.client.put_object_retention(
            **name, Retention={"Mode": "COMPLIANCE", "RetainUntilDate": earlier}
        ),
        "turning a lock into one that can be bypassed": lambda: bucket.client.put_object_retention(
            **name, Retention={"Mode": "GOVERNANCE", "RetainUntilDate": until}
        ),
        "deleting a locked object": lambda: bucket.client.delete_object(**name),
        "deleting a locked object with a bypass": lambda: bucket.client.delete_object(
            **name, BypassGovernanceRetention=True
        ),
    }
    for what, attempt in attempts.items():
        refused = _is_refused(bucket, attempt) and _is_there(bucket, canary)
        checked.append(
            CheckedSetting(
                name=what,
                verdict="ok" if refused else "wrong",
                found="refused" if refused else "done",
                wanted="refused",
                fix="this server does not enforce Object Lock: nothing in it is safe; take another one",
            )
        )
    if prove:
        checked.append(_proof(bucket))
    return checked


def _proof(bucket: Bucket) -> CheckedSetting:
    """Return whether it was the lock that refused: these credentials can delete an object that is not locked."""
    key = bucket.place.prefix + _key()
    with asking(bucket.place, "store a canary without a lock"):
        answer = bucket.client.put_object(Bucket=bucket.place.bucket, Key=key, Body=_CONTENT)
    deleted = not _is_refused(
        bucket,
        lambda: bucket.client.delete_object(Bucket=bucket.place.bucket, Key=key, VersionId=answer.get("VersionId", "")),
    )
    return CheckedSetting(
        name="what refused the deletion",
        verdict="ok" if deleted else "note",
        found="the lock" if deleted else "perhaps only these credentials, which may delete nothing",
        wanted="the lock",
        fix="run `bucket check` once with credentials that may delete: they show that it is the lock that refuses",
    )


def _is_refused(bucket: Bucket, attempt: Callable[[], object]) -> bool:
    """Try what a lock has to refuse."""
    try:
        with asking(bucket.place, "try the lock"):
            attempt()
    except SinkRefused:
        return True
    return False


def _is_there(bucket: Bucket, version: ObjectVersion) -> bool:
    with suppress(FileNotFoundError):
        return bucket.lock_state(version).mode == "COMPLIANCE"
    return False


def _key() -> str:
    return f"{CANARY}{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.urandom(8).hex()}"


# -- making ------------------------------------------------------------------------------------------------------------


def _new_bucket(bucket: Bucket) -> Any:  # noqa: ANN401 - what boto3 takes
    name: dict[str, object] = {"Bucket": bucket.place.bucket, "ObjectLockEnabledForBucket": True}
    region = bucket.client.meta.region_name
    if bucket.place.endpoint is None and region not in {None, "us-east-1", "aws-global"}:
        name["CreateBucketConfiguration"] = {"LocationConstraint": region}
    return name


def _remove_incomplete_uploads(bucket: Bucket) -> str:
    rule: Any = {
        "ID": "audit-async: parts of uploads that were not completed",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": _INCOMPLETE_DAYS},
    }
    try:
        bucket.client.put_bucket_lifecycle_configuration(
            Bucket=bucket.place.bucket, LifecycleConfiguration={"Rules": [rule]}
        )
    except ClientError:
        return "rule for uploads that were not completed: this server does not take it; remove them from time to time"
    return f"rule: parts of uploads that were not completed are removed after {_INCOMPLETE_DAYS} days"
