"""Which files `-f` reads, and what is sent of them."""

import click
import pytest

from headrace.cli import manifests

MODEL = "apiVersion: headrace.io/v1\nkind: Model\nmetadata: {name: iris}\nspec: {uri: iris.joblib}\n"


def test_a_file_comes_with_its_folder(tmp_path, monkeypatch):
    """A file is read with its name as given, and the absolute folder that its paths start from."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "m.yaml").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    (file,) = manifests.read(["deep/m.yaml"])
    assert (file.name, file.text, file.base) == ("deep/m.yaml", MODEL, str(tmp_path / "deep"))


def test_a_folder_gives_its_manifests_only(tmp_path):
    """In a folder, at any depth, manifests are found in YAML and JSON; models, settings and hidden files are not."""
    (tmp_path / "b" / "deeper").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.yaml").write_text(MODEL)
    (tmp_path / "z.yml").write_text(MODEL)
    (tmp_path / "a.json").write_text('{"apiVersion": "headrace.io/v1", "kind": "Model", "metadata": {"name": "a"}}')
    (tmp_path / "b" / "deeper" / "m.yaml").write_text(MODEL)
    (tmp_path / "b" / "model.json").write_text('{"learner": {"kind": 1}}')
    (tmp_path / "b" / "headrace.yaml").write_text("runtime: sklearn\n")
    (tmp_path / "b" / "model-settings.json").write_text('{"name": "old", "implementation": "x.Y"}')
    (tmp_path / "README.md").write_text(MODEL)
    found = [file.name.removeprefix(f"{tmp_path}/") for file in manifests.read([str(tmp_path)])]
    assert found == ["a.json", "z.yml", "b/model-settings.json", "b/deeper/m.yaml"]


def test_a_named_file_is_sent_whatever_it_holds(tmp_path):
    """A file that is named goes to the server, which says what is wrong with it."""
    (tmp_path / "x.txt").write_text("nothing")
    assert manifests.read([str(tmp_path / "x.txt")])[0].text == "nothing"


def test_a_file_named_twice_counts_once(tmp_path, monkeypatch):
    """A file that is found in two ways is sent once."""
    (tmp_path / "m.yaml").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    assert len(manifests.read([".", "m.yaml", "./m.yaml"])) == 1


@pytest.mark.parametrize("made", [None, "folder"], ids=["not there", "without manifests"])
def test_what_cannot_be_read(tmp_path, made):
    """A path that is not there, and a folder without manifests, are usage errors that name it."""
    place = tmp_path / "x"
    if made:
        place.mkdir()
    with pytest.raises(click.UsageError, match=str(place)):
        manifests.read([str(place)])


@pytest.mark.parametrize("text", ["", "\n\n", "# later\n---\n  # more\n...\n"], ids=["empty", "blank", "comments"])
def test_files_that_declare_nothing(tmp_path, text):
    """Where nothing but comments stands in all that is named, that is a usage error; beside a manifest it is none."""
    (tmp_path / "empty.yaml").write_text(text)
    (tmp_path / "m.yaml").write_text(MODEL)
    with pytest.raises(click.UsageError, match=r"no manifest in .*empty\.yaml"):
        manifests.read([str(tmp_path / "empty.yaml")])
    assert len(manifests.read([str(tmp_path / "empty.yaml"), str(tmp_path / "m.yaml")])) == 2
