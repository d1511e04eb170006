"""Who calls: keys to names and roles."""

from __future__ import annotations

import hashlib

import pytest

from headrace.errors import SettingsError, Unauthenticated
from headrace.security.callers import ANONYMOUS, Caller, Callers


def digest(key):
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "keys.yaml"
    path.write_text(f"shop: {{role: partner, sha256: {digest('k1')}}}\nown: {{sha256: {digest('k2').upper()}}}\n")
    return path


@pytest.mark.parametrize(
    ("headers", "caller"),
    [
        ({"authorization": "Bearer k1"}, Caller("shop", "partner")),
        ({"authorization": "bearer  k1 "}, Caller("shop", "partner")),
        ({"x-api-key": "k2"}, Caller("own", "default")),
        ({}, ANONYMOUS),
        ({"authorization": "Basic abc"}, ANONYMOUS),
    ],
)
def test_a_key_is_somebodys(keys, headers, caller):
    """A key in either header gives its name and role, and no key is anonymous; the second time as the first."""
    callers = Callers.read(keys)
    assert [callers.who(headers), callers.who(headers)] == [caller, caller]


def test_an_unknown_key_is_refused_without_being_repeated(keys):
    """A key that nobody has is refused, and the text does not hold it."""
    with pytest.raises(Unauthenticated) as caught:
        Callers.read(keys).who({"x-api-key": "stolen"})
    assert "stolen" not in str(caught.value)


def test_no_key_where_one_is_needed_says_how(keys):
    """A missing key is refused with how to send one."""
    with pytest.raises(Unauthenticated, match="Authorization: Bearer KEY"):
        Callers.read(keys, require=True).who({})


def test_without_a_file_keys_are_for_somebody_else():
    """With no keys at all, what a proxy in front may have sent is not looked at."""
    assert Callers({}).who({"authorization": "Bearer x"}) == ANONYMOUS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected NAME"),
        ("- a", "expected NAME"),
        ("a: {sha256: abc}", "'a': sha256 must be the 64"),
        ("a: {key: x}", "'a': expected {role"),
        ("a: [", "not valid YAML, line"),
        (f"a: {{sha256: {digest('k')}}}\nb: {{sha256: {digest('k')}}}", "'b' has the key of 'a'"),
    ],
)
def test_a_wrong_file_is_told(tmp_path, text, words):
    """What is wrong with a file of keys is said with the entry, and no digest is in the text."""
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=words) as caught:
        Callers.read(path)
    assert digest("k") not in str(caught.value)


def test_a_missing_file_is_told(tmp_path):
    """A file that is not there is an error of the setting."""
    with pytest.raises(SettingsError, match=r"security\.keys_file .*No such file"):
        Callers.read(tmp_path / "none.yaml")
