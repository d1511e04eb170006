"""How changes are shown: fields, actions, lines."""

import pytest

from headrace.cli import changes
from headrace.client.control import Action, Change, Changes

BEFORE = {"apiVersion": "headrace.io/v1", "kind": "Model", "metadata": {"name": "iris", "generation": 3, "uid": "u"}}
OLD = {**BEFORE, "spec": {"uri": "a", "idleSeconds": 5}, "status": {"revision": 1}}
NEW = {**BEFORE, "metadata": {"name": "iris", "labels": {"team": "x"}}, "spec": {"uri": "b", "memoryBytes": 7}}


def change(action="configured", before=OLD, after=NEW, **rest):
    return Change(action=action, kind="Model", name="iris", generation=4, before=before, after=after, **rest)


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, [("~", "a", "1 -> 2")]),
        ({"a": {"b": 1}}, {"a": {"c": 1}}, [("-", "a.b", "1"), ("+", "a.c", "1")]),
        (
            {"steps": [{"name": "x", "model": "m"}, {"name": "y"}]},
            {"steps": [{"name": "y"}, {"name": "x", "model": "n"}]},
            [("~", "steps[x].model", "m -> n")],
        ),
        ({"a": [1, 2]}, {"a": [2, 1]}, [("~", "a", "[1, 2] -> [2, 1]")]),
    ],
    ids=["same", "value", "members", "named things", "lists"],
)
def test_fields_that_differ(before, after, found):
    """Each difference is told by its path; things in lists are matched by name, whatever their order."""
    assert list(changes.field_changes(before, after)) == found


def test_a_plan_tells_fields_actions_and_sums(capsys):
    """A plan shows each field that changes, what the server would do by stages, and how much of each."""
    planned = Changes(
        changes=(change(notes=("spec.x: without effect",)), change("created", None), change("unchanged")),
        actions=(
            Action(verb="set", unit="model", name="iris", revision=2, reason="changed"),
            Action(verb="remove", unit="model", name="iris", revision=1, stage=3),
        ),
    )
    changes.write_plan(planned)
    lines = capsys.readouterr().out.splitlines()
    assert "  ~ model/iris is configured: generation 4" in lines
    assert any(line.split() == ["~", "uri", "a", "->", "b"] for line in lines)
    assert any(line.split() == ["-", "idleSeconds", "5"] for line in lines)
    assert any(line.split() == ["+", "memoryBytes", "7"] for line in lines)
    assert any(line.split() == ["+", "metadata.labels", '{"team":', '"x"}'] for line in lines)
    assert "      note: spec.x: without effect" in lines
    assert "  + model/iris is created" in lines
    assert "  1. load model iris revision 2 (changed)" in lines
    assert "  2. remove model iris revision 1" in lines
    assert lines[-1] == "Plan: 1 to create, 1 to change, 1 unchanged. Nothing has been changed."


def test_notes_of_what_stays_say_whose_they_are(capsys):
    """Where nothing would change, each resource that has notes is named above them."""
    planned = Changes(
        changes=(change("unchanged", notes=("spec.x: without effect",)), change("unchanged")),
    )
    changes.write_plan(planned)
    assert capsys.readouterr().out.splitlines()[1:] == ["", "  model/iris", "      note: spec.x: without effect"]


def test_a_plan_of_nothing_says_so(capsys):
    """Where nothing would change, one line says that."""
    changes.write_plan(Changes(changes=(change("unchanged"), change("unchanged"))))
    assert capsys.readouterr().out == "No changes: 2 resources are as the files say.\n"


def test_a_diff_is_of_what_is_declared():
    """A diff shows lines of the declaration, and none of what the server writes into it."""
    lines = list(changes.diff_lines(Changes(changes=(change(), change("unchanged")))))
    assert lines[:2] == ["--- model/iris (server)", "+++ model/iris (files)"]
    assert {"-  uri: a", "+  uri: b", "-  idleSeconds: 5", "+  memoryBytes: 7"} <= set(lines)
    assert not any("uid" in line or "generation" in line or "revision" in line for line in lines)


@pytest.mark.parametrize(("given", "signs"), [(change("created", None), "+"), (change("deleted", after=None), "-")])
def test_a_diff_of_what_comes_or_goes(given, signs):
    """What is created has only added lines, what is deleted only removed ones."""
    lines = [line for line in changes.diff_lines(Changes(changes=(given,))) if line[:3] not in {"---", "+++"}]
    assert {line[0] for line in lines} == {"@", signs}
