"""Confirmations: only what a known collector has signed, of this log and still valid, lets a host go on."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from audit_async import tlog
from audit_async.errors import ConfigError
from audit_async.forwarding import ConfirmationExpired, ConfirmationInvalid, UnknownCollector, check_confirmations
from audit_async.forwarding.confirmations import (
    VALID_FOR,
    BucketCopy,
    Confirmation,
    check_confirmation,
    confirmed_at_least,
    merged_confirmations,
    sign_confirmation,
)
from audit_async.tlog.signing_keys import Signer, load_signer

pytestmark = pytest.mark.anyio
HASH = "0a" * 32
LOG = "6f" * 16


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    """A collector's key."""
    return made_signer(tmp_path, "collector-1")


def made_signer(directory: Path, name: str) -> Signer:
    """Make a key."""
    path = directory / f"{name}.pem"
    tlog.write_key(path, tlog.new_key())
    return load_signer(str(path), origin=name)


async def signed(signer: Signer, seq: int = 7, *, log_id: str = LOG, copies: int = 1) -> bytes:
    """Sign a confirmation."""
    confirmation = Confirmation.of(log_id, seq, HASH, collector=signer.key.name, copies=copies)
    return await sign_confirmation(confirmation, signer)


async def test_what_was_signed_is_read(signer: Signer) -> None:
    """By the verifier key as `keys show` prints it; the hash is in the text as hex, which engines look for."""
    note = await signed(signer, 41, copies=2)
    found = check_confirmation(note, [str(signer.key)], log_id=LOG)
    assert (found.log_id, found.seq, found.hash, found.collector, found.copies) == (LOG, 41, HASH, "collector-1", 2)
    assert found.expires_at - found.issued_at == VALID_FOR
    assert HASH.encode() in note


async def test_a_bucket_is_a_place_of_its_own(signer: Signer, tmp_path: Path) -> None:
    """It counts once, whoever names it, up to what it has; its record is none that an engine lets a log begin after."""
    other = made_signer(tmp_path, "collector-2")
    stored = None
    for by, seq, in_bucket in ((signer, 20, 9), (other, 15, 12)):
        confirmation = Confirmation.of(
            LOG, seq, HASH, collector=by.key.name,
            buckets=(BucketCopy(bucket="s3://worm/acme", seq=in_bucket), BucketCopy(bucket=f"s3://{seq}", seq=0)),
        )  # fmt: skip
        stored = merged_confirmations(stored, await sign_confirmation(confirmation, by))
    assert stored is not None
    found = check_confirmations(stored, [signer.key, other.key], log_id=LOG)
    assert [[bucket.seq for bucket in one.buckets] for one in found] == [[9, 0], [12, 0]]
    assert [confirmed_at_least(found, copies) for copies in range(1, 7)] == [20, 15, 12, 0, 0, None]
    assert set(re.findall(rb"[0-9a-f]{64}", stored)) == {HASH.encode()}


@pytest.mark.parametrize("bucket", ["s3://a b", "s3://a\nrecord 9", "s3://ü", "", "s3://" + "a" * 512])
async def test_a_bucket_of_another_form_is_not_signed(signer: Signer, bucket: str) -> None:
    """Nothing that is signed can be read in another way."""
    confirmation = Confirmation.of(LOG, 7, HASH, collector="collector-1", buckets=(BucketCopy(bucket=bucket, seq=1),))
    assert not confirmation.buckets[0].fits()
    with pytest.raises(ConfigError):
        await sign_confirmation(confirmation, signer)


async def test_a_bucket_has_no_more_than_the_collector(signer: Signer) -> None:
    """Since it is the collector's copy that is pushed; what says otherwise is believed in nothing."""
    confirmation = Confirmation.of(
        LOG, 7, HASH, collector="collector-1", buckets=(BucketCopy(bucket="s3://worm", seq=8),)
    )
    with pytest.raises(ConfirmationInvalid, match="more of the log than the collector"):
        check_confirmations(await sign_confirmation(confirmation, signer), [signer.key], log_id=LOG)


async def test_each_reason_not_to_believe_has_its_name(signer: Signer, tmp_path: Path) -> None:
    """Unknown signer, wrong signature, other log, expired, from the future, damaged, too long, nothing."""
    note, key = await signed(signer), signer.key
    other = made_signer(tmp_path, "other")
    with pytest.raises(UnknownCollector):
        check_confirmations(note, [other.key], log_id=LOG)
    with pytest.raises(UnknownCollector):
        check_confirmations(b"", [key], log_id=LOG)
    with pytest.raises(ConfirmationInvalid, match="signature"):
        check_confirmations(note.replace(b"record 7", b"record 8"), [key], log_id=LOG)
    with pytest.raises(ConfirmationInvalid, match="is of log"):
        check_confirmations(note, [key], log_id="other")
    now = datetime.now(UTC)
    with pytest.raises(ConfirmationExpired, match="collector-1 expired"):
        check_confirmations(note, [key], log_id=LOG, now=now + VALID_FOR)
    with pytest.raises(ConfirmationInvalid, match="clocks"):
        check_confirmations(note, [key], log_id=LOG, now=now - timedelta(hours=1))
    for damaged in (note[:-10], note[1:], note.replace(b"copies 1", b"copies 0"), b"x" * 70_000, b"{}"):
        with pytest.raises(ConfirmationInvalid):
            check_confirmations(damaged, [key], log_id=LOG)


async def test_a_key_signs_only_in_its_own_name(signer: Signer) -> None:
    """And nothing that would break the lines."""
    for wrong in (
        Confirmation.of(LOG, 7, HASH, collector="other"),
        Confirmation.of("a\nrecord 9", 7, HASH, collector="collector-1"),
        Confirmation.of(LOG, 7, "short", collector="collector-1"),
    ):
        with pytest.raises(ConfigError):
            await sign_confirmation(wrong, signer)


async def test_two_collectors_keep_their_notes_next_to_each_other(signer: Signer, tmp_path: Path) -> None:
    """Each replaces its own, and a record counts as many copies as collectors have it."""
    other = made_signer(tmp_path, "collector-2")
    stored = merged_confirmations(None, await signed(signer, 7))
    stored = merged_confirmations(stored, await signed(other, 5))
    stored = merged_confirmations(stored, await signed(signer, 9))
    found = check_confirmations(stored, [signer.key, other.key], log_id=LOG)
    assert [(one.collector, one.seq) for one in found] == [("collector-1", 9), ("collector-2", 5)]
    at = [confirmed_at_least(found, copies) for copies in (1, 2, 3)]
    assert at == [9, 5, None]
    assert [one.collector for one in check_confirmations(stored, [other.key], log_id=LOG)] == ["collector-2"]


async def test_what_an_engine_made_of_it_is_dropped(signer: Signer, tmp_path: Path) -> None:
    """Garbage, or a flood of notes, does not keep a collector from confirming; an expired note is not kept."""
    new = await signed(signer)
    assert merged_confirmations(b"garbage", new) == new
    flood = b"".join([await signed(made_signer(tmp_path, f"c{number}")) for number in range(16)])
    merged = merged_confirmations(flood, new)
    assert merged.startswith(new)
    assert merged.count(b"audit-async/confirmation") == 16
    assert len(merged) <= 65_536
    now = datetime.now(UTC).replace(microsecond=0)
    other = made_signer(tmp_path, "collector-2")
    old = Confirmation(
        log_id=LOG, seq=1, hash=HASH, collector="collector-2", copies=1,
        issued_at=now - timedelta(days=8), expires_at=now - timedelta(days=1),
    )  # fmt: skip
    assert merged_confirmations(await sign_confirmation(old, other), new) == new


async def test_one_wrong_note_makes_the_others_no_better(signer: Signer, tmp_path: Path) -> None:
    """A forged note in a known name is reported; one by a stranger is left out."""
    other = made_signer(tmp_path, "collector-2")
    stored = merged_confirmations(await signed(other, 5), await signed(signer, 7))
    assert [one.seq for one in check_confirmations(stored, [signer.key], log_id=LOG)] == [7]
    forged = stored.replace(b"record 5", b"record 6")
    assert [one.seq for one in check_confirmations(forged, [signer.key], log_id=LOG)] == [7]
    with pytest.raises(ConfirmationInvalid):
        check_confirmations(forged, [signer.key, other.key], log_id=LOG)
