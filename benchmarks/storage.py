"""What fetching costs beside the store client's own copy: many small objects, and one large one, from an S3 server
that this program starts.

Usage: .venv-test/bin/python benchmarks/storage.py

Prints seconds and the ratio, medians of turns; the target is 0.8 of the client's own copy. The client copies with as
many threads as fetching uses, and neither computes digests nor publishes anything. In each turn both copy, one after
the other and each first in half of the turns, and the ratio is of a turn: what else the machine does, and what its file
system does with so many files, meets both. A first turn does not count. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import obstore
from obstore.store import S3Store

from headrace.artifacts import fetch
from headrace.artifacts.settings import ArtifactSettings
from headrace.testing.brokers import free_port, wait_for_port

SMALL, SMALL_BYTES = 1000, 10_000
LARGE_BYTES = 512 << 20
PART = 16 << 20
THREADS = 8
REPEATS = 8


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="storage-"))
    port = free_port()
    weed = Path(sys.executable).with_name("weed")
    server = [weed, "mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder / 'data'}", f"-s3.port={port}"]
    others = [f"-{name}.port={free_port()}" for name in ("master", "volume", "filer")]
    off = ["-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=64"]
    (folder / "data").mkdir()
    key = {"AWS_ACCESS_KEY_ID": "key-of-benchmarks", "AWS_SECRET_ACCESS_KEY": "secret-of-benchmarks"}
    os.environ.update(key, AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}", AWS_REGION="us-east-1")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*server, *others, *off], stdout=log, stderr=log, cwd=folder)
    try:
        wait_for_port(port, 60)
        measure(folder)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def measure(folder: Path) -> None:
    bucket = "benchmark"
    store = made(bucket)
    for at in range(SMALL):
        obstore.put(store, f"small/{at}.bin", os.urandom(SMALL_BYTES))
    obstore.put(store, "large/model.bin", (os.urandom(PART) for _ in range(LARGE_BYTES // PART)), chunk_size=PART)
    print(f"{'':28}{'client':>10}{'headrace':>10}{'ratio':>8}   of single turns")
    cases: list[tuple[str, Callable[[Path], None], str]] = [
        (f"{SMALL} objects of {SMALL_BYTES // 1000} kB", lambda out: copy_small(store, out), f"s3://{bucket}/small"),
        (f"one object of {LARGE_BYTES >> 20} MB", lambda out: copy_large(store, out), f"s3://{bucket}/large"),
    ]
    for name, copy, uri in cases:
        turns = [turn(folder / f"turn{at}", copy, uri, ours_first=bool(at % 2)) for at in range(REPEATS + 1)][1:]
        ratios = sorted(client / ours for client, ours in turns)
        client, ours = (median(each) for each in zip(*turns, strict=True))
        told = f"{name:28}{client:>9.2f}s{ours:>9.2f}s{median(ratios):>8.2f}   {ratios[0]:.2f} to {ratios[-1]:.2f}"
        print(told + ("" if median(ratios) >= 0.8 else "   below the target of 0.8"))


def turn(out: Path, copy: Callable[[Path], None], uri: str, *, ours_first: bool) -> tuple[float, float]:
    """Seconds of the client and of fetching, into empty folders."""
    seconds: dict[str, float] = {}
    for who in ("headrace", "client") if ours_first else ("client", "headrace"):
        out.mkdir()
        seconds[who] = timed(copy, out) if who == "client" else timed(fetched, uri, out)
        shutil.rmtree(out)
    return seconds["client"], seconds["headrace"]


def made(bucket: str) -> S3Store:
    import boto3

    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1")
    deadline = time.monotonic() + 60
    while True:
        try:
            client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key="first", Body=b"1")
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            break
    return S3Store(bucket, client_options={"allow_http": True, "timeout": "1h"})


def copy_small(store: S3Store, out: Path) -> None:
    names = [meta["path"] for chunk in obstore.list(store, "small") for meta in chunk]

    def one(name: str) -> None:
        (out / name.rpartition("/")[2]).write_bytes(obstore.get(store, name).bytes())

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(one, names))


def copy_large(store: S3Store, out: Path) -> None:
    handle = os.open(out / "model.bin", os.O_CREAT | os.O_WRONLY)

    def one(at: int) -> None:
        os.pwrite(handle, obstore.get_range(store, "large/model.bin", start=at, length=PART), at)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(one, range(0, LARGE_BYTES, PART)))
    os.close(handle)


def fetched(uri: str, out: Path) -> None:
    got = fetch.fetch(uri, settings=ArtifactSettings(cache_dir=str(out / uuid.uuid4().hex), parallel=THREADS))
    if got.downloaded_bytes != got.bytes:
        raise SystemExit("not all of it was downloaded")


def timed(function: Callable[..., Any], *arguments: Any) -> float:
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
