"""Archives: what is unpacked, and everything that a hostile one may try."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile

import pytest

from headrace.artifacts import archives
from headrace.errors import ArtifactCorrupt, ArtifactFailed


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def tarred(path, members, mode="w:gz"):
    """Members are `(name, bytes)` or made TarInfos."""
    with tarfile.open(path, mode) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return path


def special(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def unpack(path, out, **more):
    return archives.unpack(path, out, name=path.name, max_bytes=more.pop("max_bytes", 1 << 30), **more)


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [(".tar", "w"), (".tar.gz", "w:gz"), (".tgz", "w:gz"), (".tar.bz2", "w:bz2"), (".tar.xz", "w:xz")],
)
def test_tars(tmp_path, out, suffix, mode):
    """Every kind of tar gives its files, read-only, links inside it included."""
    members = [("./a/b.txt", b"text"), special("a/link", tarfile.SYMTYPE, "b.txt"), ("c", b"")]
    path = tarred(tmp_path / f"m{suffix}", [*members, special("a/hard", tarfile.LNKTYPE, "a/b.txt")], mode)
    assert unpack(path, out) == (3, 8)
    assert (out / "a" / "b.txt").read_bytes() == (out / "a" / "link").read_bytes() == b"text"
    assert (out / "a" / "hard").read_bytes() == b"text"
    assert stat.S_IMODE((out / "a" / "b.txt").stat().st_mode) == 0o444


def test_zstandard(tmp_path, out):
    """A `.tar.zst` is unpacked where pyarrow is installed."""
    import pyarrow as pa

    plain = tarred(tmp_path / "m.tar", [("a", b"1" * 100_000)], "w").read_bytes()
    (tmp_path / "m.tar.zst").write_bytes(pa.Codec("zstd").compress(plain, asbytes=True))
    assert unpack(tmp_path / "m.tar.zst", out) == (1, 100_000)
    assert (out / "a").read_bytes() == b"1" * 100_000


def test_zips(tmp_path, out):
    """A zip gives its files and folders."""
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as zipped:
        zipped.writestr("a/b.txt", b"text")
        zipped.writestr("empty/", b"")
    assert unpack(tmp_path / "m.zip", out) == (1, 4)
    assert (out / "a" / "b.txt").read_bytes() == b"text"
    assert (out / "empty").is_dir()


@pytest.mark.parametrize(
    "member",
    [
        ("../escape", b"1"),
        ("/escape", b"1"),
        ("a/../../escape", b"1"),
        ("..\\escape", b"1"),
        special("link", tarfile.SYMTYPE, "/etc/passwd"),
        special("link", tarfile.SYMTYPE, "../escape"),
        special("a/link", tarfile.SYMTYPE, "../../escape"),
        special("hard", tarfile.LNKTYPE, "../escape"),
        special("hard", tarfile.LNKTYPE, "not-there"),
        special("device", tarfile.CHRTYPE),
        special("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda each: each[0] if isinstance(each, tuple) else f"{each.name} {each.type.decode()} {each.linkname}",
)
def test_hostile_members_are_refused(tmp_path, out, member):
    """A name or link that leads out, a device or a pipe: an error that names the member, and nothing outside."""
    (tmp_path / "escape").write_bytes(b"mine")
    with pytest.raises(ArtifactCorrupt, match="member"):
        unpack(tarred(tmp_path / "m.tar.gz", [member]), out)
    assert (tmp_path / "escape").read_bytes() == b"mine"
    assert not list(out.iterdir())


def test_nothing_is_written_through_a_link(tmp_path, out):
    """A file below an earlier link, even one that stays inside, is refused."""
    members = [special("a", tarfile.SYMTYPE, "b"), ("b/x", b"1"), ("a/x", b"2")]
    with pytest.raises(ArtifactCorrupt, match="below a link"):
        unpack(tarred(tmp_path / "m.tar", members, "w"), out)
    assert (out / "b" / "x").read_bytes() == b"1"


def test_a_file_that_replaces_a_link_does_not_follow_it(tmp_path, out):
    """A later member of a link's name takes its place."""
    members = [("kept", b"kept"), special("a", tarfile.SYMTYPE, "kept"), ("a", b"new")]
    unpack(tarred(tmp_path / "m.tar", members, "w"), out)
    assert ((out / "kept").read_bytes(), (out / "a").read_bytes()) == (b"kept", b"new")


def test_zips_with_links_and_names_that_lead_out(tmp_path, out):
    """In zips too, what is neither file nor folder, and what leads out, is refused."""
    for name, mode in (("link", stat.S_IFLNK | 0o777), ("../escape", 0o644)):
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        with zipfile.ZipFile(tmp_path / "m.zip", "w") as zipped:
            zipped.writestr(info, "/etc/passwd")
        with pytest.raises(ArtifactCorrupt, match="member"):
            unpack(tmp_path / "m.zip", out)
    assert not (tmp_path / "escape").exists()


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_a_bomb_is_stopped(tmp_path, out, kind):
    """An archive that unpacks to more than allowed is stopped there."""
    path = tmp_path / f"m.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.writestr("a", bytes(20 << 20))
    else:
        tarred(path, [("a", bytes(20 << 20))])
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ArtifactFailed, match=r"more than artifacts\.max_bytes"):
        unpack(path, out, max_bytes=5 << 20)
    assert sum(file.stat().st_size for file in out.rglob("*")) <= 6 << 20


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.bz2", "tar.xz", "zip"])
@pytest.mark.parametrize("damage", ["cut", "other"])
def test_damaged_archives_are_said(tmp_path, out, kind, damage):
    """What is cut off, or is no archive at all, cannot be unpacked, and that is what is said."""
    path = tmp_path / f"m.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as zipped:
            zipped.writestr("a", b"text" * 10_000)
    else:
        tarred(path, [("a", b"text" * 10_000)], "w:" + kind.removeprefix("tar").removeprefix("."))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"<html>not found</html>" * 100)
    with pytest.raises(ArtifactCorrupt, match="unpacked"):
        unpack(path, out)


def test_an_empty_archive_is_no_model(tmp_path, out):
    """An archive without a file is said to be empty."""
    with pytest.raises(ArtifactCorrupt, match="no file"):
        unpack(tarred(tmp_path / "m.tar", [], "w"), out)


@pytest.mark.parametrize(("name", "suffix"), [("a.tar.gz", ".tar.gz"), ("A.ZIP", ".zip"), ("a.npz", ""), (".zip", "")])
def test_which_names_are_archives(name, suffix):
    """Only names with an archive's suffix and something before it are unpacked; formats that are zips inside are not."""
    assert archives.suffix_of(name) == suffix
