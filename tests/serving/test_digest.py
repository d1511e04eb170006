"""digest: a file, a folder, links, what counts and what does not."""

import hashlib

import pytest

from headrace.errors import LoadFailed
from headrace.serving.digest import digest, files


def test_a_file_is_named_by_its_bytes(tmp_path):
    """The digest of a file is the SHA-256 of its bytes, whatever the file is called."""
    (tmp_path / "a.onnx").write_bytes(b"x" * 3_000_000)
    (tmp_path / "b").write_bytes(b"x" * 3_000_000)
    assert digest(tmp_path / "a.onnx") == digest(str(tmp_path / "b")) == hashlib.sha256(b"x" * 3_000_000).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda root: (root / "sub" / "w.bin").write_bytes(b"2"), id="bytes"),
        pytest.param(lambda root: (root / "sub" / "w.bin").rename(root / "sub" / "v.bin"), id="name"),
        pytest.param(lambda root: (root / "sub" / "w.bin").rename(root / "w.bin"), id="place"),
        pytest.param(lambda root: (root / "new").write_bytes(b""), id="empty-file"),
    ],
)
def test_a_folder_changes_with_its_files(tmp_path, change):
    """Any change to the bytes, names or places of a folder's files gives it another digest."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "MLmodel").write_text("flavors: {}")
    (tmp_path / "sub" / "w.bin").write_bytes(b"1")
    before = digest(tmp_path)
    change(tmp_path)
    assert digest(tmp_path) != before


def test_a_mounted_volume_has_the_digest_of_what_it_shows(tmp_path):
    """A folder of links to a hidden, dated folder (as Kubernetes mounts volumes) equals the plain folder."""
    plain, mount = tmp_path / "plain", tmp_path / "mount"
    plain.mkdir()
    (plain / "model.onnx").write_bytes(b"m")
    (mount / "..2026").mkdir(parents=True)
    (mount / "..2026" / "model.onnx").write_bytes(b"m")
    (mount / "..data").symlink_to("..2026")
    (mount / "model.onnx").symlink_to("..data/model.onnx")
    assert digest(mount) == digest(plain)


def test_a_link_to_the_folder_above_ends(tmp_path):
    """A link that closes a circle is walked past, not around."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    (tmp_path / "sub" / "m").write_bytes(b"m")
    assert [name for name, _ in files(tmp_path)] == ["sub/m"]


def test_nothing_there_is_a_load_error(tmp_path):
    """A path with nothing at it is a LoadFailed that names the path."""
    with pytest.raises(LoadFailed, match="gone"):
        digest(tmp_path / "gone")


def test_what_loading_writes_does_not_count(tmp_path):
    """A folder keeps its digest when loading it leaves compiled modules or hidden files behind."""
    (tmp_path / "model.py").write_text("class Model: ...")
    before = digest(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "model.cpython-311.pyc").write_bytes(b"x")
    (tmp_path / ".cache").write_bytes(b"x")
    assert digest(tmp_path) == before
