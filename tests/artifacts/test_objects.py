"""Objects of folders and of a store that checks signatures: what is read, written, listed, and what is said when not."""

from __future__ import annotations

import base64
import csv
import io
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.artifacts import fetch, objects, uri
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import ArtifactCorrupt, ArtifactDenied, ArtifactFailed, ArtifactNotFound, ArtifactUnreachable

QUICK = ArtifactSettings(retries=0, timeout_seconds=5)


@pytest.fixture(params=["file", "s3", "az"])
def place(request, tmp_path):
    """A prefix of its own on each kind of store."""
    if request.param == "file":
        return f"{tmp_path}/in"
    if request.param == "az":
        return f"az://{request.getfixturevalue('azure').container()}/some/in"
    return f"s3://{request.getfixturevalue('s3').bucket()}/some/in"


def test_what_is_put_is_read(place):
    """An object reads as it was written, under a name with spaces, percent signs and letters of any script."""
    store = objects.open_objects(place)
    etag = store.put("a/ü %20.txt", b"hello")
    assert store.read("a/ü %20.txt") == b"hello"
    info = store.head("a/ü %20.txt")
    assert (info.size, info.etag, info.path) == (5, etag, "a/ü %20.txt")
    assert info.uri == f"{place}/a/ü %20.txt"
    assert info.modified > 1.6e9


def test_listing_by_prefix_glob_and_nothing(place):
    """A prefix lists whole path segments, a glob what fits, and a prefix with nothing below lists nothing."""
    store = objects.open_objects(place)
    for path in ("a.csv", "x/b.csv", "x/y/c.csv", "xx/d.csv", "x/e.txt"):
        store.put(path, b"1")

    def listed(pattern):
        return sorted(info.path for info in store.list(pattern))

    assert listed("") == ["a.csv", "x/b.csv", "x/e.txt", "x/y/c.csv", "xx/d.csv"]
    assert listed("x") == ["x/b.csv", "x/e.txt", "x/y/c.csv"]
    assert listed("x/") == listed("x")
    assert listed("*.csv") == ["a.csv"]
    assert listed("**/*.csv") == ["a.csv", "x/b.csv", "x/y/c.csv", "xx/d.csv"]
    assert listed("x/*.csv") == ["x/b.csv"]
    assert listed("x*/?.csv") == ["x/b.csv", "xx/d.csv"]
    assert listed("x/[!b].*") == ["x/e.txt"]
    assert listed("nothing") == []
    assert listed("x/b.csv") == ["x/b.csv"]


def test_a_uri_means_one_object_a_glob_or_a_folder(place):
    """`expand` takes one uri of any of the three kinds, and says so when nothing is there."""
    store = objects.open_objects(place)
    store.put("a/1.csv", b"1")
    store.put("a/2.csv", b"2")
    for meant, count in ((f"{place}/a/1.csv", 1), (f"{place}/a/*.csv", 2), (f"{place}/a", 2), (f"{place}/a/", 2)):
        found = objects.expand(meant)
        assert len(found) == count
        for info in found:
            where, path = uri.split(info.uri)
            assert objects.open_objects(where).head(path).etag == info.etag
    for missing in (f"{place}/b.csv", f"{place}/*.parquet", f"{place}/b/"):
        with pytest.raises(ArtifactNotFound, match="nothing"):
            objects.expand(missing)


def test_a_large_object_is_written_in_parts_and_read_anywhere(place):
    """Forty megabytes written in pieces read the same straight on, by seeks, and by lines."""
    rng = random.Random(1)
    data = rng.randbytes(40 << 20)
    store = objects.open_objects(place)
    with store.write("large.bin") as out:
        view = memoryview(data)
        while view:
            count = rng.randrange(1, 5 << 20)
            out.write(view[:count])
            view = view[count:]
    assert store.head("large.bin").size == len(data)
    with store.open("large.bin") as file:
        for _ in range(5):
            at = rng.randrange(len(data))
            file.seek(at)
            assert file.read(1000) == data[at : at + 1000]
        file.seek(-10, io.SEEK_END)
        assert file.read() == data[-10:]
        assert file.read(1) == b""
        file.seek(0)
        again = bytearray()
        while chunk := file.read(3 << 20):
            again += chunk
    assert bytes(again) == data


def test_csv_and_parquet_read_through_an_open_object(place):
    """What is open can be given to `csv` and to pyarrow as any file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    store = objects.open_objects(place)
    table = pa.table({"x": list(range(50_000)), "y": [f"row {at}" for at in range(50_000)]})
    with store.write("t.parquet") as out:
        pq.write_table(table, out)
    with store.open("t.parquet") as file:
        assert pq.read_table(file).equals(table)
    with store.write("t.csv") as out, io.TextIOWrapper(out, encoding="utf-8", newline="") as text:
        rows = csv.writer(text)
        rows.writerows([at, f"row {at}"] for at in range(50_000))
    with store.open("t.csv") as file, io.TextIOWrapper(file, encoding="utf-8") as text:
        assert sum(1 for _ in csv.reader(text)) == 50_000


def _half_write(store, size):
    with store.write("a") as out:
        out.write(bytes(size))
        raise ValueError("no more")


@pytest.mark.parametrize("size", [10, 40 << 20], ids=["small", "in parts"])
def test_what_fails_while_it_is_written_is_not_there(place, size):
    """A body that raises leaves no object, no part of one, and the older object as it was."""
    store = objects.open_objects(place)
    store.put("a", b"older")
    with pytest.raises(ValueError, match="no more"):
        _half_write(store, size)
    assert store.read("a") == b"older"
    assert [info.path for info in store.list()] == ["a"]


def test_parts_of_a_failed_upload_are_taken_back(s3):
    """After a body that raised, the bucket has no upload under way."""
    bucket = s3.bucket()
    store = objects.open_objects(f"s3://{bucket}")
    with pytest.raises(ValueError, match="no more"):
        _half_write(store, 40 << 20)
    assert not s3.client().list_multipart_uploads(Bucket=bucket).get("Uploads")


def test_conditional_puts(place):
    """Only the first of two `if_absent` wins, and `if_match` writes over exactly the object it names."""
    store = objects.open_objects(place)
    first = store.put("claim", b"one", if_absent=True)
    assert first is not None
    assert store.put("claim", b"two", if_absent=True) is None
    assert store.put("claim", b"two", if_match="other") is None
    assert store.read("claim") == b"one"
    second = store.put("claim", b"two", if_match=first)
    assert second not in {None, first}
    assert store.put("claim", b"three", if_match=first) is None
    assert store.put("never", b"x", if_match=first) is None
    assert store.read("claim") == b"two"


def test_deleting_twice_is_no_error(place):
    """What is deleted is gone, and deleting it again is fine."""
    store = objects.open_objects(place)
    store.put("a", b"1")
    store.delete("a")
    store.delete("a")
    with pytest.raises(ArtifactNotFound):
        store.head("a")


def test_an_object_replaced_while_it_is_read_is_said(s3):
    """Reading on after the object was replaced raises instead of giving bytes of two objects, whatever its new size."""
    store = objects.open_objects(f"s3://{s3.bucket()}")
    for size in (2 << 20, 3 << 20):
        store.put("a", b"1" * (2 << 20))
        with store.open("a") as file:
            assert file.read(10) == b"1" * 10
            store.put("a", b"2" * size)
            with pytest.raises(ArtifactCorrupt, match="changed while it was read"):
                file.read()


def test_a_file_that_grows_while_it_is_read_is_said(tmp_path):
    """A local file that somebody still writes to is not read as if it were whole."""
    (tmp_path / "a").write_bytes(b"1" * (2 << 20))
    store = objects.open_objects(str(tmp_path))
    with store.open("a") as file:
        assert file.read(10) == b"1" * 10
        with (tmp_path / "a").open("ab") as more:
            more.write(b"22")
        with pytest.raises(ArtifactCorrupt, match="changed while it was read"):
            file.read()


def test_consoles_folders_are_no_objects(s3):
    """The empty objects that consoles make for folders are not listed; empty files are."""
    bucket = s3.bucket()
    client = s3.client()
    for key in ("f/", "f/a.csv", "empty.csv"):
        client.put_object(Bucket=bucket, Key=key, Body=b"" if key != "f/a.csv" else b"1")
    assert sorted(info.path for info in objects.open_objects(f"s3://{bucket}").list()) == ["empty.csv", "f/a.csv"]


def test_causes_are_named_and_secrets_are_not(s3, monkeypatch):
    """Nothing there, refused, unreachable: each is its own error that names the uri, and none holds the key."""
    bucket = s3.bucket()
    told = []
    with pytest.raises(ArtifactNotFound, match=f"s3://{bucket}/nothing: nothing is there") as caught:
        objects.open_objects(f"s3://{bucket}").read("nothing")
    told.append(caught.value)
    with pytest.raises(ArtifactNotFound, match="NoSuchBucket") as caught:
        list(objects.open_objects("s3://no-such-bucket").list())
    told.append(caught.value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret-of-tests")
    for act in (lambda o: o.read("a"), lambda o: list(o.list()), lambda o: o.put("a", b""), lambda o: o.delete("a")):
        with pytest.raises(ArtifactDenied, match=f"s3://{bucket}") as caught:
            act(objects.open_objects(f"s3://{bucket}"))
        told.append(caught.value)
    with pytest.raises(ArtifactDenied) as caught, objects.open_objects(f"s3://{bucket}").write("a") as out:
        out.write(bytes(40 << 20))
    told.append(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(ArtifactUnreachable, match="cannot be reached") as caught:
        objects.open_objects(f"s3://{bucket}", settings=QUICK).read("a")
    told.append(caught.value)
    for error in told:
        assert "a-wrong-secret" not in f"{error} {error!r} {error.__cause__}"


def test_azure_lets_in_by_key_connection_string_and_signature(azure, monkeypatch, tmp_path):
    """Each way to say who one is reads what was written and fetches it; a wrong key and none are refused, and no error
    holds a key or a signature.
    """
    name = azure.container()
    objects.open_objects(f"az://{name}").put("iris/model", b"bytes")
    strings = f"AccountName={azure.account};AccountKey={azure.key};BlobEndpoint={azure.endpoint}"
    ways = ({"AZURE_STORAGE_SAS_TOKEN": f"?{azure.sas}"}, {"AZURE_STORAGE_CONNECTION_STRING": strings})
    for at, way in enumerate(ways):
        with monkeypatch.context() as patch:
            patch.delenv("AZURE_STORAGE_ACCESS_KEY")
            for variable, value in way.items():
                patch.setenv(variable, value)
            refused = azure.refused
            found = fetch.fetch(
                f"abfss://{name}@tests.dfs.core.windows.net/iris",
                settings=replace(QUICK, cache_dir=str(tmp_path / str(at))),
            )
            assert (Path(found.path) / "model").read_bytes() == b"bytes"
            assert azure.refused == refused
    wrong = base64.b64encode(b"wrong key of tests").decode()
    for key, told in ((wrong, "may not do this"), ("", "there are none")):
        monkeypatch.setenv("AZURE_STORAGE_ACCESS_KEY", key)
        with pytest.raises(ArtifactDenied, match=told) as caught:
            objects.open_objects(f"az://{name}", settings=QUICK).read("iris/model")
        assert wrong not in f"{caught.value} {caught.value!r} {caught.value.__cause__}"


def test_missing_credentials_say_what_to_set(monkeypatch, tmp_path):
    """Without any credentials nothing is asked of anybody, and the variables to set are named."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ArtifactDenied, match="AWS_ACCESS_KEY_ID"):
        objects.open_objects("s3://bucket/x")


def test_local_causes(tmp_path):
    """A missing file, a folder in a file's place and a folder that may not be written are told apart."""
    (tmp_path / "folder").mkdir()
    store = objects.open_objects(str(tmp_path))
    with pytest.raises(ArtifactNotFound):
        store.read("nothing")
    with pytest.raises(ArtifactNotFound, match="is a folder"):
        store.head("folder")
    with pytest.raises(ArtifactDenied, match="leads out"):
        store.read("../other")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ArtifactFailed), store.write("file/below"):
        pass


def test_a_link_in_a_circle_is_listed_once(tmp_path):
    """A folder that holds a link to itself is listed, and ends."""
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [info.path for info in objects.open_objects(str(tmp_path)).list()] == ["a"]
