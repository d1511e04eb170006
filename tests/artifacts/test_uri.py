"""Uris taken apart, globs, and what may be shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.artifacts import uri
from headrace.artifacts.secrets import Secret, scrub
from headrace.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "scheme", "host", "path", "account"),
    [
        ("s3://b/a/c.csv", "s3", "b", "a/c.csv", ""),
        ("s3a://b/a", "s3", "b", "a", ""),
        ("S3://b", "s3", "b", "", ""),
        ("gs://b/a?b#c", "gs", "b", "a?b#c", ""),
        ("az://c/a", "az", "c", "a", ""),
        ("abfss://c@acc.dfs.core.windows.net/a/b", "az", "c", "a/b", "acc"),
        ("wasbs://c@acc.blob.core.windows.net/a", "az", "c", "a", "acc"),
        ("https://acc.blob.core.windows.net/c/a%20b?sv=1&sig=x", "az", "c", "a b", "acc"),
        ("https://host:1/a%20b?x=1", "https", "host:1", "a%20b", ""),
        ("pvc://claim/a", "pvc", "claim", "a", ""),
        ("models:/iris/1", "models", "", "iris/1", ""),
        ("/a/b", "file", "", "/a/b", ""),
        ("file:///a%20b", "file", "", "/a b", ""),
        ("file:a/b", "file", "", "a/b", ""),
        ("C:/x", "file", "", "C:/x", ""),
    ],
)
def test_parts(text, scheme, host, path, account):
    """Each kind of uri has its scheme in one word, its bucket, its path and its account."""
    place = uri.parse(text)
    assert (place.scheme, place.host, place.path, place.account) == (scheme, host, path, account)


@pytest.mark.parametrize(
    "text", ["s3:///x", "gs://", "az:///", "http:///x", "https://a12.blob.core.windows.net/", "file://other/x"]
)
def test_uris_without_a_part(text):
    """A uri that lacks its bucket, host or container is refused with how it should be."""
    with pytest.raises(SettingsError, match="://"):
        uri.parse(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pass@host/a?sig=s#f", "https://host/a"),
        ("https://acc.blob.core.windows.net/c/a?sig=s", "https://acc.blob.core.windows.net/c/a"),
        ("http://host?token=s", "http://host"),
        ("mlflow-artifacts://me:pass@host:1/a?t=s", "mlflow-artifacts://host:1/a"),
        ("abfss://c@acc.dfs.core.windows.net/a", "abfss://c@acc.dfs.core.windows.net/a"),
        ("s3://b/a?b", "s3://b/a?b"),
        ("models:/iris@champion", "models:/iris@champion"),
        ("/a?b", "/a?b"),
    ],
)
def test_what_is_shown_has_no_secret(text, shown):
    """Users, passwords and queries of URLs are not shown; all that names an object is."""
    assert uri.shown(text) == shown
    if "pass" in text or "sig" in text:
        assert "pass" not in repr(uri.parse(text))
        assert "sig" not in repr(uri.parse(text))


@pytest.mark.parametrize(
    ("text", "where", "path"),
    [
        ("s3://b/a/c.csv", "s3://b/a", "c.csv"),
        ("s3://b/c.csv", "s3://b/", "c.csv"),
        ("s3://b/a/", "s3://b/a/", ""),
        ("s3://b", "s3://b", ""),
        ("s3://b/a/*/c.csv", "s3://b/a", "*/c.csv"),
        ("s3://b/**/*.csv", "s3://b/", "**/*.csv"),
        ("/a/b.csv", "/a", "b.csv"),
        ("/b.csv", "/", "b.csv"),
        ("b.csv", ".", "b.csv"),
        ("a/*.csv", "a", "*.csv"),
        ("file:///a%20b/c.csv", "/a b", "c.csv"),
        ("https://host/a.csv?sig=*", "https://host/a.csv?sig=*", ""),
    ],
)
def test_splitting(text, where, path):
    """A uri is where and what: a glob begins the second part, and a trailing slash leaves it empty."""
    assert uri.split(text) == (where, path)


@given(st.lists(st.text("ab*?[.", min_size=1, max_size=4), min_size=1, max_size=4))
def test_a_glob_without_wildcards_fits_itself_only(parts):
    """Of any text without wildcards the pattern fits that text alone."""
    glob = "/".join(part.translate(str.maketrans("*?[", "xyz")) for part in parts)
    assert uri.pattern(glob).fullmatch(glob)
    assert not uri.pattern(glob).fullmatch(glob + "q")


def test_globs_stay_in_folders():
    """`*` and `?` do not cross folders, `**` does, and `**/` may be no folder at all."""
    fits = lambda glob, path: uri.pattern(glob).fullmatch(path) is not None  # noqa: E731
    assert fits("*.csv", "a.csv")
    assert not fits("*.csv", "x/a.csv")
    assert fits("**/*.csv", "a.csv")
    assert fits("**/*.csv", "x/y/a.csv")
    assert fits("x/**", "x/y/z")
    assert not fits("a?c", "a/c")
    assert fits("[a-c].x", "b.x")
    assert not fits("[!a-c].x", "b.x")
    assert fits("a[", "a[")


def test_a_secret_shows_nothing():
    """A secret's `repr`, `str` and format are stars; only `reveal` has it."""
    secret = Secret("s3cret-of-tests")
    assert f"{secret} {secret!r} {[secret]}" == "*** *** [***]"
    assert secret.reveal() == "s3cret-of-tests"
    assert scrub("x s3cret-of-tests y", ["s3cret-of-tests", "", "x"]) == "x *** y"


@pytest.mark.parametrize(
    ("name", "is_local"),
    [
        *(
            (name, False)
            for name in ("s3://b/x", "models:/iris/1", "runs:/abc/m", "https://h/x", "mlflow-artifacts:/x")
        ),
        *((name, True) for name in ("iris.joblib", "/a/b", "file:///a", "./x:/y", "package.module:Class", "C:/x")),
    ],
)
def test_what_is_of_this_machine(name, is_local):
    """Paths, `file:` uris and classes are; uris of stores and registries are not."""
    assert uri.is_local(name) == is_local
