"""Fetching from a store that checks signatures: what is copied, reused, continued, refused."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from headrace.artifacts import cache as cache_
from headrace.artifacts import fetch, objects, registry
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import (
    ArtifactCorrupt,
    ArtifactDenied,
    ArtifactFailed,
    ArtifactNotFound,
    ArtifactUnreachable,
    SettingsError,
)


@pytest.fixture
def settings(tmp_path):
    return ArtifactSettings(cache_dir=str(tmp_path / "cache"), retries=1, timeout_seconds=10)


@pytest.fixture
def store(s3):
    """A prefix of an S3 bucket of its own."""
    return objects.open_objects(f"s3://{s3.bucket()}/models/iris")


def tree(path):
    root = Path(path)
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def leftovers(settings):
    root = Path(settings.cache_dir) / "1"
    return [*root.glob("partial/*"), *root.glob("trees/.*")]


def test_a_folder_comes_once(store, settings):
    """A prefix is a folder of its files; a second fetch brings nothing and is the same folder."""
    files = {"model.joblib": b"m" * 1000, "a/b/c.json": b"{}", "empty": b""}
    for path, data in files.items():
        store.put(path, data)
    told = []
    first = fetch.fetch(store.uri, settings=settings, report=told.append)
    assert tree(first.path) == files
    assert Path(first.path).name == "iris"
    assert (first.files, first.bytes, first.downloaded_bytes) == (3, 1002, 1002)
    assert (told[-1].done_bytes, told[-1].total_bytes, told[-1].done_files, told[-1].total_files) == (1002, 1002, 3, 3)
    second = fetch.fetch(f"{store.uri}/", settings=settings)
    third = fetch.fetch(store.uri, settings=settings)
    assert third == type(third)(**{**{f: getattr(first, f) for f in first.__struct_fields__}, "downloaded_bytes": 0})
    assert second.downloaded_bytes == 0
    assert not leftovers(settings)


def test_one_object_is_one_file(store, settings):
    """The uri of an object is a file of its name."""
    store.put("model.onnx", b"onnx")
    fetched = fetch.fetch(f"{store.uri}/model.onnx", settings=settings)
    assert Path(fetched.path).name == "model.onnx"
    assert Path(fetched.path).read_bytes() == b"onnx"


def test_only_what_changed_comes_again(store, settings):
    """When one file of a folder changed, only that one is downloaded, and the older copy stays as it was."""
    store.put("large", b"1" * 100_000)
    store.put("small", b"old")
    pinned = fetch.pin(store.uri, settings=settings)
    first = fetch.fetch(store.uri, settings=settings)
    assert fetch.pin(store.uri, settings=settings) == pinned == first.pinned
    store.put("small", b"newer")
    assert fetch.pin(store.uri, settings=settings).token != pinned.token
    second = fetch.fetch(store.uri, settings=settings)
    assert second.downloaded_bytes == 5
    assert tree(second.path) == {"large": b"1" * 100_000, "small": b"newer"}
    assert tree(first.path) == {"large": b"1" * 100_000, "small": b"old"}


def test_bytes_that_came_later_are_not_taken_for_those_of_before(store, settings, tmp_path):
    """What a uri stood for is the copy of it, and where there is none is not what the uri stands for now."""
    store.put("model", b"old")
    pinned = fetch.fetch(store.uri, settings=settings).pinned
    store.put("model", b"newer")
    assert tree(fetch.fetch(store.uri, settings=settings, pinned=pinned).path) == {"model": b"old"}
    empty = ArtifactSettings(cache_dir=str(tmp_path / "empty"))
    with pytest.raises(ArtifactNotFound, match="other bytes are there"):
        fetch.fetch(store.uri, settings=empty, pinned=pinned)
    store.put("model", b"old")
    assert tree(fetch.fetch(store.uri, settings=empty, pinned=pinned).path) == {"model": b"old"}


def test_bytes_of_two_models_are_kept_once(store, settings, s3):
    """The same bytes at two uris take room once."""
    other = objects.open_objects(f"s3://{s3.bucket()}")
    for place in (store, other):
        place.put("model.bin", b"1" * 50_000)
    one = fetch.fetch(f"{store.uri}/model.bin", settings=settings)
    two = fetch.fetch(f"{other.uri}/model.bin", settings=settings)
    assert one.path != two.path
    assert Path(one.path).stat().st_ino == Path(two.path).stat().st_ino


def test_a_large_object_comes_in_parts(store, settings):
    """Fifty megabytes, three parts and a rest, are the bytes that were written."""
    data = random.Random(3).randbytes(50_000_001)
    with store.write("large") as out:
        out.write(data)
    fetched = fetch.fetch(f"{store.uri}/large", settings=settings)
    assert Path(fetched.path).read_bytes() == data
    assert fetched.downloaded_bytes == len(data)
    assert not leftovers(settings)


def test_patterns_choose_files(store, settings):
    """Only files that fit an allowed pattern and no ignored one come; that none fits is said."""
    for path in ("a.onnx", "b.txt", "x/c.onnx", "x/d.onnx"):
        store.put(path, b"1")
    import dataclasses

    chosen = dataclasses.replace(settings, allow_patterns=("*.onnx",), ignore_patterns=("d.*",))
    assert sorted(tree(fetch.fetch(store.uri, settings=chosen).path)) == ["a.onnx", "x/c.onnx"]
    with pytest.raises(ArtifactNotFound, match="allow_patterns"):
        fetch.fetch(store.uri, settings=dataclasses.replace(settings, allow_patterns=("*.pb",)))


def test_what_is_too_large_is_refused_before_its_bytes_come(store, tmp_path):
    """A folder of more than `max_bytes` is refused by what the store says, and nothing is left of it."""
    store.put("a", b"1" * 600)
    store.put("b", b"1" * 600)
    settings = ArtifactSettings(cache_dir=str(tmp_path), max_bytes=1000)
    with pytest.raises(ArtifactFailed, match=r"1200 bytes, more than artifacts\.max_bytes, 1000"):
        fetch.fetch(store.uri, settings=settings)
    assert not leftovers(settings)


def test_an_archive_alone_is_unpacked(store, settings, tmp_path):
    """`iris.tar.gz` and `iris.zip` become folders called `iris` with what was in them."""
    (tmp_path / "model.bin").write_bytes(b"model")
    with tarfile.open(tmp_path / "iris.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "model.bin", "deep/model.bin")
    with zipfile.ZipFile(tmp_path / "iris.zip", "w") as zipped:
        zipped.write(tmp_path / "model.bin", "deep/model.bin")
    for name in ("iris.tar.gz", "iris.zip"):
        store.put(name, (tmp_path / name).read_bytes())
        for _ in range(2):
            fetched = fetch.fetch(f"{store.uri}/{name}", settings=settings)
            assert Path(fetched.path).name == "iris"
            assert tree(fetched.path) == {"deep/model.bin": b"model"}
        assert fetched.downloaded_bytes == 0


def test_a_copy_from_before_a_start_of_the_machine_is_checked(store, settings, monkeypatch):
    """What may have been lost with the power is found by its digest, and comes again; what is whole is used."""
    store.put("model", b"1" * 1000)
    first = fetch.fetch(store.uri, settings=settings)
    monkeypatch.setattr(cache_, "boot", lambda: "another")
    assert fetch.fetch(store.uri, settings=settings).downloaded_bytes == 0
    monkeypatch.setattr(cache_, "boot", lambda: "a third")
    file = Path(first.path) / "model"
    file.chmod(0o644)
    file.write_bytes(bytes(1000))
    again = fetch.fetch(store.uri, settings=settings)
    assert again.downloaded_bytes == 1000
    assert tree(again.path) == {"model": b"1" * 1000}


def test_two_at_once_fetch_once(store, settings):
    """Threads that fetch the same at the same time bring its bytes once, and have the same folder."""
    for at in range(20):
        store.put(f"{at}", bytes([at]) * 10_000)
    found, failed = [], []

    def one():
        try:
            found.append(fetch.fetch(store.uri, settings=settings))
        except ArtifactFailed as exc:
            failed.append(exc)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert sum(each.downloaded_bytes for each in found) == 200_000
    assert len({each.path for each in found}) == 1


def test_two_processes_fetch_once(store, settings):
    """Processes that fetch the same at the same time bring its bytes once."""
    for at in range(20):
        store.put(f"{at}", bytes([at]) * 10_000)
    program = (
        "import sys; from headrace.artifacts import fetch; from headrace.artifacts.settings import ArtifactSettings\n"
        "got = fetch.fetch(sys.argv[1], settings=ArtifactSettings(cache_dir=sys.argv[2]))\n"
        "print(got.downloaded_bytes, got.path)"
    )
    command = [sys.executable, "-c", program, store.uri, settings.cache_dir]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=50)[0].split() for process in running]
    assert sum(int(count) for count, _ in said) == 200_000
    assert len({path for _, path in said}) == 1


def test_a_cancelled_fetch_ends_and_leaves_no_tree(store, settings):
    """Setting `cancel` ends a download with an error, and nothing half-fetched can be taken for the model."""
    with store.write("large") as out:
        out.write(bytes(40 << 20))
    cancel = threading.Event()
    with pytest.raises(ArtifactFailed, match="was stopped"):
        fetch.fetch(store.uri, settings=settings, cancel=cancel, report=lambda progress: cancel.set())
    assert not list((Path(settings.cache_dir) / "1" / "trees").iterdir())
    assert fetch.fetch(store.uri, settings=settings).bytes == 40 << 20


def test_causes(store, settings, monkeypatch):
    """Nothing there, refused and unreachable are told apart, and what is refused is not tried again."""
    with pytest.raises(ArtifactNotFound, match=f"{store.uri}"):
        fetch.fetch(store.uri, settings=settings)
    with pytest.raises(ArtifactNotFound, match="NoSuchBucket"):
        fetch.pin("s3://no-such-bucket/x", settings=settings)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret-of-tests")
    with pytest.raises(ArtifactDenied) as caught:
        fetch.fetch(store.uri, settings=settings)
    assert "a-wrong-secret" not in f"{caught.value!r}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(ArtifactUnreachable, match="cannot be reached"):
        fetch.fetch(store.uri, settings=settings)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s4://bucket/x", "did you mean s3"),
        ("hdfs://host/x", "hdfs is not supported: mount it"),
        ("oci://image:tag", "image volume"),
        ("modelscope://org/x", "modelscope download"),
        ("git://host/x", "clone it"),
        ("nonsense://x", "known are"),
        ("s3:///path", "s3://BUCKET/PATH"),
        ("az://container/x", "AZURE_STORAGE_ACCOUNT_NAME"),
    ],
)
def test_uris_that_cannot_be(uri, said, settings, monkeypatch):
    """A scheme that is not spoken says the nearest, or what to do instead; a uri without a part says how it is."""
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    with pytest.raises(SettingsError, match=said):
        fetch.fetch(uri, settings=settings)


def test_every_scheme_can_be_opened():
    """Each row of the table names a function that is there."""
    import importlib

    for row in registry.SCHEMES.values():
        module, _, function = row.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_local_paths_and_volumes_stay_where_they_are(tmp_path, settings):
    """A path, a `file:` uri and a `pvc://` uri are used in place, relative paths below `base`."""
    import dataclasses

    (tmp_path / "claim" / "iris").mkdir(parents=True)
    (tmp_path / "claim" / "iris" / "m").write_bytes(b"1")
    where = dataclasses.replace(settings, volumes=str(tmp_path))
    for uri in ("claim/iris", f"{tmp_path}/claim/iris", f"file://{tmp_path}/claim/iris", "pvc://claim/iris"):
        fetched = fetch.fetch(uri, settings=where, base=str(tmp_path))
        assert fetched.path == f"{tmp_path}/claim/iris"
        assert (fetched.bytes, fetched.downloaded_bytes) == (1, 0)
    only = dataclasses.replace(settings, volumes=str(tmp_path / "claim"))
    assert fetch.fetch("pvc://mounted-itself/iris", settings=only).path == f"{tmp_path}/claim/iris"
    for uri in ("pvc://claim/other", "pvc://claim/../../etc"):
        with pytest.raises(ArtifactNotFound, match=r"artifacts\.volumes"):
            fetch.fetch(uri, settings=where)


def test_pruning_removes_the_least_used_and_keeps_what_is_held(store, settings):
    """Beyond the bound the copies used longest ago go, and never one that is held or was just fetched."""
    paths = []
    for at in range(3):
        store.put(f"{at}", bytes([at]) * 10_000)
        paths.append(Path(fetch.fetch(f"{store.uri}/{at}", settings=settings).path))
    assert cache_.prune(settings, 1).copies == 0
    for age, path in zip((4000, 3000, 2000), paths, strict=True):
        at = path.parent.stat().st_mtime - age
        os.utime(path.parent / "manifest", (at, at))
    hold = cache_.Cache(settings).hold(paths[0])
    pruned = cache_.prune(settings, 25_000)
    assert (pruned.copies, [path.exists() for path in paths]) == (1, [True, False, True])
    assert pruned.freed_bytes >= 10_000
    hold.close()
    assert cache_.prune(settings, 1).copies == 2
    assert not any(path.exists() for path in paths)
    assert not list((Path(settings.cache_dir) / "1").glob("blobs/*/*"))


def test_a_source_whose_names_lead_out_is_refused(settings):
    """What a registry lists is not trusted: a path that leads out of the folder is an error."""
    from headrace.artifacts.base import Entry, Pinned

    class Source:
        def pin(self):
            return Pinned(uri="x", token="1")

        def entries(self):
            return [Entry(path="../../escape", size=1)]

        def read(self, entry, *, start=0):
            yield b"1"

    with pytest.raises(ArtifactDenied, match="leads out"):
        fetch._Fetch("s3://b/x", Source(), settings, None, threading.Event()).run(None)


def test_a_wrong_digest_is_said(settings):
    """Bytes whose announced sha256 they are not are no model, and nothing of them is kept."""
    from headrace.artifacts.base import Entry, Pinned

    class Source:
        def pin(self):
            return Pinned(uri="x", token="1")

        def entries(self):
            return [Entry(path="m", size=1, sha256="0" * 64)]

        def read(self, entry, *, start=0):
            yield b"1"

    with pytest.raises(ArtifactCorrupt, match="sha256"):
        fetch._Fetch("s3://b/x", Source(), settings, None, threading.Event()).run(None)
    assert not leftovers(settings)
