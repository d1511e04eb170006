"""What a person may call a kind, and how resources are named on the command line."""

import click
import pytest

from headrace.cli import kinds
from headrace.control.resources import KINDS


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("model", "Model"),
        ("Models", "Model"),
        ("mlm", "Model"),
        ("mlp", "Pipeline"),
        ("mlx", "Experiment"),
        ("mls", "Server"),
        ("ROLLOUT", "Rollout"),
        ("isvc", "InferenceService"),
        ("sdep", "SeldonDeployment"),
        ("models.mlops.seldon.io", "Model"),
    ],
)
def test_words_for_kinds(word, kind):
    """A kind is found by its name in any case, its plural, its short name, and its name with a group."""
    assert kinds.kind_of(word) == kind


def test_every_kind_has_names_and_no_two_share_one():
    """Each kind of resource can be named, and each name means one kind."""
    assert list(kinds.NAMES) == list(KINDS)
    names = [name for each in (*kinds.NAMES.values(), *kinds.FOREIGN.values()) for name in each]
    assert len(names) == len(set(names))


def test_an_unknown_kind_is_told_with_the_nearest():
    """An unknown kind is a usage error that names the nearest one."""
    with pytest.raises(click.UsageError, match="no kind 'pipelin'; did you mean 'pipeline'"):
        kinds.kind_of("pipelin")


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["model", "iris"], [("Model", "iris")]),
        (["models", "a", "b"], [("Model", "a"), ("Model", "b")]),
        (["model/a", "mlp/b"], [("Model", "a"), ("Pipeline", "b")]),
        ([], []),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_targets(words, keys):
    """Resources are named as KIND NAME... or as KIND/NAME..."""
    assert kinds.targets_of(words) == keys


@pytest.mark.parametrize("words", [["model"], ["model/a", "b"], ["model/"], ["isvc/a"]], ids=" ".join)
def test_targets_that_are_none(words):
    """A kind alone, a mixture, an empty name and a foreign kind name no resources."""
    with pytest.raises(click.UsageError):
        kinds.targets_of(words)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ([], ("", "")),
        (["mlp"], ("Pipeline", "")),
        (["isvc", "a"], ("InferenceService", "a")),
        (["exp/a"], ("Experiment", "a")),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_what_to_list(words, key):
    """A list may be asked of everything, of a kind, or of one."""
    assert kinds.maybe_of(words) == key
