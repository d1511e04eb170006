"""Who is trusted to have written a pickle, and what the rest may name."""

import importlib
import os

import pytest

from headrace.errors import SettingsError
from headrace.security import load_policy
from headrace.security.load_policy import ALLOWED, decide, untrusted_because


@pytest.fixture
def model(tmp_path):
    tmp_path.chmod(0o755)
    path = tmp_path / "model.pkl"
    path.write_bytes(b".")
    path.chmod(0o644)
    return path


def test_a_local_file_of_our_own_is_trusted(model):
    """A file of the server's user that nobody else can write is trusted by `auto`."""
    assert decide(model, "auto") is None


def test_what_was_fetched_never_is(model):
    """The same file, fetched or uploaded, is restricted."""
    assert decide(model, "auto", origin="remote") == tuple(ALLOWED)


@pytest.mark.parametrize("origin", ["local", "remote"])
def test_settings_overrule_the_origin(model, origin):
    """`trusted` trusts and `restricted` restricts, wherever the file comes from."""
    assert decide(model, "trusted", origin=origin) is None
    assert decide(model, "restricted", origin=origin) == tuple(ALLOWED)


@pytest.mark.parametrize("mode", [0o646, 0o666, 0o602])
def test_a_file_others_can_write_is_restricted(model, mode):
    """A file that anybody may write is restricted, and the reason names it."""
    model.chmod(mode)
    assert decide(model, "auto") == tuple(ALLOWED)
    assert str(model) in untrusted_because(model)


def test_a_folder_others_can_write_restricts_its_files(model):
    """Whoever can write the folder can replace the file, so the file is restricted."""
    model.parent.chmod(0o777)
    assert "777" in untrusted_because(model)


def test_a_shared_temporary_folder_does_not(model):
    """In a folder where each may only touch what is theirs, our own file is trusted."""
    model.parent.chmod(0o1777)
    assert untrusted_because(model) == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("given", ["file", "folder"])
def test_another_users_file_is_restricted(model, given):
    """A file, or a file in a folder, that belongs to another user is restricted."""
    os.chown(model if given == "file" else model.parent, 12345, 0)
    assert "12345" in untrusted_because(model)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_group_of_others_restricts(model):
    """A file that a group may write is restricted, unless the group is the user's own."""
    model.chmod(0o664)
    assert untrusted_because(model) == ""
    os.chown(model, 0, 12345)
    assert "664" in untrusted_because(model)


def test_one_loose_file_restricts_a_whole_folder(tmp_path, model):
    """An artifact that is a folder is as trusted as its least trusted file, links followed."""
    outside = tmp_path / "outside"
    outside.write_bytes(b".")
    outside.chmod(0o666)
    inside = tmp_path / "artifact" / "deep"
    inside.mkdir(parents=True)
    (inside / "kept.pkl").write_bytes(b".")
    for place in (inside, inside.parent):
        place.chmod(0o755)
    (inside / "kept.pkl").chmod(0o644)
    assert untrusted_because(tmp_path / "artifact") == ""
    (inside / "link.pkl").symlink_to(outside)
    assert str(outside) in untrusted_because(tmp_path / "artifact")


def test_a_link_is_as_trusted_as_what_it_leads_to(tmp_path, model):
    """A link of our own to a file that others can write is restricted."""
    link = tmp_path / "link.pkl"
    link.symlink_to(model)
    assert untrusted_because(link) == ""
    model.chmod(0o666)
    assert untrusted_because(link) != ""


def test_a_person_can_allow_more(model):
    """Patterns of one's own are added to the table's."""
    assert decide(model, "restricted", extra=("mine.Scaler",))[-1] == "mine.Scaler"


def test_a_setting_nobody_knows_names_the_nearest(model):
    """A setting that is none of the three is an error with the nearest one."""
    with pytest.raises(SettingsError, match="'trusted'"):
        decide(model, "truste")


def test_a_missing_file_is_an_error(tmp_path):
    """A path that is not there cannot be judged."""
    with pytest.raises(SettingsError, match="absent"):
        decide(tmp_path / "absent", "auto")


def test_every_exact_row_says_why_and_no_row_calls_out():
    """Each row has a reason, the only wildcard is scikit-learn's, and nothing known to run code is listed."""
    assert all(ALLOWED.values())
    assert [pattern for pattern in ALLOWED if "*" in pattern] == ["sklearn.*"]
    dangerous = {"builtins.eval", "builtins.exec", "builtins.getattr", "builtins.type", "builtins.open", "os.system"}
    dangerous |= {"functools.partial", "operator.attrgetter", "operator.methodcaller", "numpy.load", "joblib.load"}
    assert not dangerous & ALLOWED.keys()
    assert not [name for name in ALLOWED if name.startswith(("os.", "subprocess.", "scipy.stats", "numpy.testing"))]


def test_names_in_the_table_exist_where_their_library_is_recent():
    """Every row that the installed libraries should have leads somewhere, so a misspelt row cannot hide."""
    old = {
        "numpy.core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy.core.numeric._frombuffer",
        "scipy.interpolate.interpolate.interp1d",
    }
    missing = []
    for full in ALLOWED.keys() - old - {"sklearn.*"}:
        module, _, name = full.rpartition(".")
        if not hasattr(importlib.import_module(module), name):
            missing.append(full)
    assert missing == []


def test_the_docstring_states_each_setting():
    """What the settings mean stands where a person looks first."""
    for setting in load_policy.SETTINGS:
        assert f"`{setting}`" in load_policy.__doc__
