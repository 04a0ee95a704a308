"""A bucket with S3 Object Lock: what it stores can't be changed or deleted before its time.

Every object is stored in compliance mode with a retain-until date of its own. A lock belongs to one *version*: anybody
who may write can add a later version under the same key, or a delete marker, so only the first version counts, and
whatever came later is reported. https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-lock.html

Everything here blocks; the callers are in worker threads. Credentials come from boto3's own sources (the environment,
a profile, the machine's role), never from the URL.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple, NoReturn, Self
from urllib.parse import SplitResult, parse_qsl, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError, ProfileNotFound
from msgspec import Struct

from audit_async._version import __version__
from audit_async.errors import ConfigError
from audit_async.forwarding.sink_errors import SinkError, SinkRefused, SinkUnavailable

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

__all__ = ["Bucket", "BucketPlace", "FileDigest", "LockState", "ObjectVersion", "StoredKey"]

#: Larger files are stored in parts, each of at least this size. A process holds one part, and what boto3 makes of it:
#: 45 MiB were measured with a file of 400 MiB.
_PART_BYTES: Final = 16 << 20
_MOST_IN_ONE: Final = 64 << 20
#: S3 takes 10,000 parts of one object.
_MOST_PARTS: Final = 9_000
_CHUNK_BYTES: Final = 1 << 20
_MOST_SMALL_BYTES: Final = 64 << 20
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_OPTIONS: Final = frozenset({"endpoint", "region", "profile"})
_NO_SUCH: Final = frozenset({"404", "NoSuchKey", "NoSuchVersion", "NotFound"})
#: Answers with status 403 and 4xx that another try may change.
_PASSING: Final = frozenset({"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "OperationAborted"})


class BucketPlace(Struct, frozen=True, kw_only=True):
    """Which bucket it is, and where in it: `s3://BUCKET/PREFIX?endpoint=URL&region=NAME&profile=NAME`."""

    bucket: str
    prefix: str = ""  #: empty, or ends with `/`
    endpoint: str | None = None  #: of a server that is not Amazon's
    region: str | None = None
    profile: str | None = None  #: of boto3's configuration files

    @classmethod
    def parse(cls, url: str) -> Self:
        """Return what a URL says; raises `ConfigError`, which never repeats the URL, since a secret may be in it."""
        parts = _split(url)
        options = dict(parse_qsl(parts.query))
        if parts.scheme != "s3" or not parts.netloc or "@" in parts.netloc or ":" in parts.netloc:
            raise ConfigError("bucket", "name the bucket by its URL, such as s3://audit-worm/web-1")
        if unknown := sorted(options.keys() - _OPTIONS):
            raise ConfigError(
                "bucket",
                f"the URL has the option {unknown[0][:40]!a}, and there are only {', '.join(sorted(_OPTIONS))}; "
                "credentials come from AWS_PROFILE, AWS_ACCESS_KEY_ID or the machine's role",
            )
        if (endpoint := options.get("endpoint")) is not None:
            at = _split(endpoint)
            is_local = at.scheme == "http" and at.hostname in _LOOPBACK
            has_more = "@" in at.netloc or at.query or at.fragment
            if has_more or not at.hostname or not (at.scheme == "https" or is_local):
                raise ConfigError(
                    "bucket",
                    "the endpoint has to be a https:// URL without user and query; http:// only of this machine itself",
                )
        prefix = parts.path.strip("/")
        return cls(
            bucket=parts.netloc,
            prefix=f"{prefix}/" if prefix else "",
            endpoint=endpoint,
            region=options.get("region"),
            profile=options.get("profile"),
        )

    def __str__(self) -> str:
        at = f" at {self.endpoint}" if self.endpoint else ""
        return f"s3://{self.bucket}/{self.prefix}{at}"


class FileDigest(NamedTuple):
    """Size and SHA-256 of a file, and of its parts if it is stored in parts."""

    size: int
    sha256: str
    part_bytes: int
    parts: tuple[bytes, ...]  #: empty if it is stored in one

    @classmethod
    def of(cls, file: BinaryIO) -> Self:
        """Read a file from its beginning to its end."""
        size = file.seek(0, 2)
        file.seek(0)
        whole, parts = hashlib.sha256(), []
        part_bytes = max(_PART_BYTES, -(-size // _MOST_PARTS))
        if size <= _MOST_IN_ONE:
            while chunk := file.read(_CHUNK_BYTES):
                whole.update(chunk)
        else:
            for _ in range(0, size, part_bytes):
                part, left = hashlib.sha256(), part_bytes
                while left and (chunk := file.read(min(_CHUNK_BYTES, left))):
                    left -= len(chunk)
                    whole.update(chunk)
                    part.update(chunk)
                parts.append(part.digest())
        return cls(size, whole.hexdigest(), part_bytes, tuple(parts))

    @property
    def checksum(self) -> str:
        """What S3 calls the checksum of the stored object."""
        if not self.parts:
            return base64.b64encode(bytes.fromhex(self.sha256)).decode()
        composite = hashlib.sha256(b"".join(self.parts)).digest()
        return f"{base64.b64encode(composite).decode()}-{len(self.parts)}"


class ObjectVersion(NamedTuple):
    """One version of one object."""

    key: str  #: without the prefix of the bucket's URL
    version: str
    size: int
    stored: datetime


class StoredKey(NamedTuple):
    """All that a bucket has under one key."""

    first: ObjectVersion | None  #: None if there is nothing but delete markers
    later: int  #: versions after the first
    delete_markers: int


class LockState(NamedTuple):
    """What the server says of one version."""

    size: int
    checksum: str | None  #: SHA-256 as S3 writes it, None if the server keeps none
    mode: str | None  #: COMPLIANCE, GOVERNANCE or None
    retain_until: datetime | None
    legal_hold: bool
    stored: datetime


class Bucket:
    """Objects in a bucket, below the prefix of its URL. Safe to use from several threads."""

    def __init__(self, place: BucketPlace) -> None:
        """Make the client; nothing is connected yet. Raises `ConfigError` for a profile that does not exist."""
        self.place: Final = place
        self.client: Final = _client(place)

    def __repr__(self) -> str:
        return f"<Bucket {self.place}>"

    # -- storing -----------------------------------------------------------------------------------------------------

    def store(self, key: str, content: bytes, *, retain_until: datetime) -> ObjectVersion:
        """Store a small object, locked; as `store_file`."""
        digest = FileDigest(len(content), hashlib.sha256(content).hexdigest(), 0, ())
        with self._asking(f"store {key}"):
            return self._store_in_one(key, content, digest, retain_until)

    def store_file(self, key: str, file: BinaryIO, digest: FileDigest, *, retain_until: datetime) -> ObjectVersion:
        """Store a file, locked until a date; on return the server has it, and has compared its SHA-256.

        The request is conditional: it fails if there is a current object of that key. A server may ignore that, and a
        delete marker hides an object, so the caller looks at the key's first version afterwards.

        Raises:
            FileExistsError: There is an object of that key.
            SinkRefused: The server refuses; a person has to act.
            SinkUnavailable: It can't be reached, or did not answer in time; the object may have been stored.
        """
        with self._asking(f"store {key}"):
            if not digest.parts:
                file.seek(0)
                return self._store_in_one(key, file, digest, retain_until)
            return self._store_in_parts(key, file, digest, retain_until)

    def _store_in_one(
        self, key: str, body: bytes | BinaryIO, digest: FileDigest, retain_until: datetime
    ) -> ObjectVersion:
        answer = self.client.put_object(
            Bucket=self.place.bucket,
            Key=self._full(key),
            Body=body,
            ContentLength=digest.size,
            ContentType="application/octet-stream",
            ChecksumAlgorithm="SHA256",
            ChecksumSHA256=digest.checksum,
            IfNoneMatch="*",
            ObjectLockMode="COMPLIANCE",
            ObjectLockRetainUntilDate=retain_until,
        )
        return ObjectVersion(key, _version_of(answer, key), digest.size, datetime.now(UTC))

    def _store_in_parts(self, key: str, file: BinaryIO, digest: FileDigest, retain_until: datetime) -> ObjectVersion:
        name: Any = {"Bucket": self.place.bucket, "Key": self._full(key)}
        upload = self.client.create_multipart_upload(
            **name,
            ContentType="application/octet-stream",
            ChecksumAlgorithm="SHA256",
            ChecksumType="COMPOSITE",
            ObjectLockMode="COMPLIANCE",
            ObjectLockRetainUntilDate=retain_until,
        )
        name["UploadId"] = upload["UploadId"]
        try:
            parts: Any = []
            for number, part in enumerate(digest.parts, 1):
                file.seek((number - 1) * digest.part_bytes)
                checksum = base64.b64encode(part).decode()
                body = file.read(digest.part_bytes)
                stored = self.client.upload_part(**name, PartNumber=number, Body=body, ChecksumSHA256=checksum)
                parts.append({"PartNumber": number, "ETag": stored["ETag"], "ChecksumSHA256": checksum})
            answer = self.client.complete_multipart_upload(**name, MultipartUpload={"Parts": parts}, IfNoneMatch="*")
        except BaseException:
            # What a killed process leaves is removed by the bucket's rule for incomplete uploads.
            with suppress(ClientError, BotoCoreError):
                self.client.abort_multipart_upload(**name)
            raise
        return ObjectVersion(key, _version_of(answer, key), digest.size, datetime.now(UTC))

    # -- looking and reading -----------------------------------------------------------------------------------------

    def listed(self, below: str = "") -> Iterator[tuple[str, StoredKey]]:
        """Yield every key that begins with `below`, in order, and what is stored under it."""
        with self._asking(f"list the versions of {below or 'all objects'}"):
            pages = self.client.get_paginator("list_object_versions").paginate(
                Bucket=self.place.bucket, Prefix=self._full(below)
            )
            listed = chain.from_iterable(map(self._versions_in, pages))
            for key, group in groupby(listed, key=lambda one: one[0]):
                found = list(group)
                versions = [version for _, version in found if version is not None]
                # They come newest first. The times have seconds at most, so among equal ones the order decides.
                first = min(reversed(versions), key=lambda version: version.stored, default=None)
                yield key, StoredKey(first, max(len(versions) - 1, 0), len(found) - len(versions))

    def _versions_in(self, page: Any) -> list[tuple[str, ObjectVersion | None]]:  # noqa: ANN401 - a page as boto3 has it
        """Return the versions of a page, newest first for each key, and None for each delete marker."""
        cut = len(self.place.prefix)
        found: list[tuple[str, ObjectVersion | None]] = [
            (
                (key := one["Key"][cut:]),
                ObjectVersion(key, one["VersionId"], one["Size"], one["LastModified"].astimezone(UTC)),
            )
            for one in page.get("Versions", ())
        ]
        found += [(one["Key"][cut:], None) for one in page.get("DeleteMarkers", ())]
        return sorted(found, key=lambda one: one[0])

    def stored(self, key: str) -> StoredKey:
        """Return what is stored under exactly this key."""
        for found, there in self.listed(key):
            if found == key:
                return there
        return StoredKey(None, 0, 0)

    def lock_state(self, version: ObjectVersion) -> LockState:
        """Return what the server says of a version, its lock included."""
        with self._asking(f"look at {version.key}"):
            head = self.client.head_object(
                Bucket=self.place.bucket, Key=self._full(version.key), VersionId=version.version, ChecksumMode="ENABLED"
            )
        return LockState(
            size=head["ContentLength"],
            checksum=head.get("ChecksumSHA256"),
            mode=head.get("ObjectLockMode"),
            retain_until=head.get("ObjectLockRetainUntilDate"),
            legal_hold=head.get("ObjectLockLegalHoldStatus") == "ON",
            stored=head["LastModified"].astimezone(UTC),
        )

    def read(self, version: ObjectVersion) -> Iterator[bytes]:
        """Yield the content of a version in pieces."""
        with self._asking(f"read {version.key}"):
            answer = self.client.get_object(
                Bucket=self.place.bucket, Key=self._full(version.key), VersionId=version.version
            )
            with closing(answer["Body"]) as body:
                yield from body.iter_chunks(_CHUNK_BYTES)

    def read_small(self, version: ObjectVersion) -> bytes:
        """Return the content of a version that is small if the library stored it; raises `SinkRefused` if it is not."""
        if version.size > _MOST_SMALL_BYTES:
            raise SinkRefused(f"{self.place}{version.key} has {version.size} bytes, and no such object has so many")
        return b"".join(self.read(version))

    def set_legal_hold(self, version: ObjectVersion, *, on: bool) -> None:
        """Put a version on legal hold, or end that; needs the right s3:PutObjectLegalHold, which does both."""
        with self._asking(f"{'set' if on else 'end'} the legal hold of {version.key}"):
            self.client.put_object_legal_hold(
                Bucket=self.place.bucket,
                Key=self._full(version.key),
                VersionId=version.version,
                LegalHold={"Status": "ON" if on else "OFF"},
            )

    def lock_until(self, version: ObjectVersion, until: datetime) -> None:
        """Lock a version in compliance mode until a date; the server refuses one that is earlier than it has."""
        with self._asking(f"lengthen the time of {version.key}"):
            self.client.put_object_retention(
                Bucket=self.place.bucket,
                Key=self._full(version.key),
                VersionId=version.version,
                Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until},
            )

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def _full(self, key: str) -> str:
        return self.place.prefix + key

    @contextmanager
    def _asking(self, doing: str) -> Iterator[None]:
        """Turn what boto3 raises into what this package raises."""
        with asking(self.place, doing):
            yield


@contextmanager
def asking(place: BucketPlace, doing: str) -> Iterator[None]:
    """Turn what boto3 raises into `FileExistsError`, `FileNotFoundError`, `SinkRefused` and `SinkUnavailable`."""
    try:
        yield
    except ClientError as error:
        _raise(error, f"{place}: can't {doing}")
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise SinkRefused(
            f"{place}: can't {doing}: there are no credentials; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or give the machine a role"
        ) from error
    except BotoCoreError as error:
        raise SinkUnavailable(f"{place}: can't {doing}: {error}") from error


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # which is read only now
    except ValueError:
        raise ConfigError("bucket", "neither the bucket nor its endpoint is a URL that can be read") from None
    return parts


def _raise(error: ClientError, what: str) -> NoReturn:
    """Raise what an error answer means."""
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    kind: type[SinkError] = SinkUnavailable if status >= 500 or code in _PASSING else SinkRefused
    if code == "ConditionalRequestConflict":  # it is not there, and may never be: the other request may still fail
        raise SinkUnavailable(f"{what}: another process stores it at this moment; push again") from error
    if code in {"PreconditionFailed", "412"}:
        raise FileExistsError(f"{what}: an object of that key is there") from error
    if code in _NO_SUCH:
        raise FileNotFoundError(f"{what}: there is no such object") from error
    raise kind(f"{what}: the server answers {code or status}") from error


def _client(place: BucketPlace) -> S3Client:
    config = Config(
        user_agent_extra=f"audit-async/{__version__}",
        connect_timeout=10,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": 4},
        # What comes is compared with what the records say; a server's own checksum of another kind adds nothing.
        response_checksum_validation="when_required",
        request_checksum_calculation="when_required",
        s3={"addressing_style": "path" if place.endpoint else "auto"},
    )
    try:
        session = boto3.session.Session(profile_name=place.profile, region_name=place.region)
        return session.client("s3", endpoint_url=place.endpoint, config=config)
    except ProfileNotFound as error:
        raise ConfigError("bucket", f"there is no profile {place.profile!a} in boto3's configuration files") from error
    except (BotoCoreError, ValueError) as error:
        raise ConfigError("bucket", f"no client can be made for {place}: {error}") from error


def _version_of(answer: Any, key: str) -> str:  # noqa: ANN401 - an answer as boto3 has it
    version = answer.get("VersionId")
    if not version or version == "null":
        raise SinkRefused(f"{key} was stored without a version: versioning of the bucket is off, so nothing is locked")
    return str(version)
