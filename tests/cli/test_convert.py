"""`headrace convert`: what it prints of manifests made for others, and what it says of faults."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from headrace.cli.group import headrace
from headrace.control import parse

SAMPLES = Path(__file__).parents[1] / "control" / "manifests" / "samples"

MODEL = """\
apiVersion: mlops.seldon.io/v1alpha1
kind: Model
metadata: {name: iris}
spec:
  storageUri: models/iris
  requirements: [sklearn]
  secretName: rclone
"""


def run(*args, **rest):
    return CliRunner().invoke(headrace, ["convert", *args], **rest)


def read(text):
    return parse.read([parse.File(name="ours.yaml", text=text, base=str(Path.cwd()))])


def test_one_file(tmp_path, monkeypatch):
    """A manifest is printed as ours, and nothing more: what has no effect as a comment above it."""
    monkeypatch.chdir(tmp_path)
    Path("model.yaml").write_text(MODEL)
    result = run("-f", "model.yaml")
    assert result.exit_code == 0
    assert result.output == (
        "# spec.secretName: rclone: without effect: files are read with the rights of the server itself\n"
        "apiVersion: headrace.io/v1\n"
        "kind: Model\n"
        "metadata:\n"
        "  name: iris\n"
        "spec:\n"
        "  uri: models/iris\n"
        "  requirements:\n"
        "  - sklearn\n"
    )


def test_standard_input(tmp_path, monkeypatch):
    """What comes on standard input is converted, its paths relative to the current folder."""
    monkeypatch.chdir(tmp_path)
    result = run("-f", "-", "-o", "json", input=MODEL)
    assert json.loads(result.output) == [
        {
            "apiVersion": "headrace.io/v1",
            "kind": "Model",
            "metadata": {"name": "iris"},
            "spec": {"uri": "models/iris", "requirements": ["sklearn"]},
        }
    ]


@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_what_is_printed_is_read_back(sample, monkeypatch):
    """What is printed of a sample is ours: read, and converted again, it is the same."""
    monkeypatch.chdir(SAMPLES)
    first = run("-f", str(sample))
    assert first.exit_code == 0, first.stderr
    before = parse.read([parse.File(name="x", text=sample.read_text(), base=str(SAMPLES))])
    assert [(each.key, each.spec) for each in read(first.stdout)] == [(each.key, each.spec) for each in before]
    again = run("-f", "-", input=first.stdout)
    assert list(yaml.safe_load_all(again.stdout)) == list(yaml.safe_load_all(first.stdout))
    assert run("-f", str(sample)).stdout == first.stdout


def test_folder(tmp_path, monkeypatch):
    """A folder is read with what is below it; a folder made for MLServer is one model, its other files left alone."""
    monkeypatch.chdir(tmp_path)
    for name in ("a/iris", "b"):
        Path(name).mkdir(parents=True)
    Path("a/iris/model-settings.json").write_text(
        '{"name": "flowers", "implementation": "mlserver_sklearn.SKLearnModel"}'
    )
    Path("a/iris/weights.json").write_text("{")
    Path("a/settings.json").write_text("{}")
    Path("b/model.yml").write_text(MODEL)
    Path("b/notes.txt").write_text("not a manifest")
    result = run("-f", str(tmp_path))
    assert result.exit_code == 0, result.stderr
    found = {each.metadata.name: each.spec.uri for each in read(result.stdout)}
    assert found == {"flowers": "a/iris", "iris": "b/models/iris"}


def test_classes_keep_their_files(tmp_path, monkeypatch):
    """Files of classes, in models, routers and combiners, are found from the current folder too."""
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path)
    Path("in/graph.yaml").write_text((SAMPLES / "seldon_v1_graph.yaml").read_text())
    found = {each.key: each.spec for each in read(run("-f", "in/graph.yaml").stdout)}
    assert found["Model", "tree-scale"].reference == "in/code/scale.py:Scale"
    steps = {step.name: step for step in found["Pipeline", "tree"].steps}
    assert steps["pick"].route.reference == "in/code/pick.py:Pick"
    assert steps["vote"].combine.reference == "in/code/vote.py:Vote"


def test_faults(tmp_path):
    """Each fault of each file is told on standard error, nothing is printed, and the exit code is 1."""
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(MODEL.replace("secretName", "secretNam").replace("iris}", f"{name}}}"))
    result = run("-f", str(tmp_path))
    assert (result.exit_code, result.stdout) == (1, "")
    lines = result.stderr.splitlines()
    assert [line.partition("/one.yaml:1: ")[2] or line.partition("/two.yaml:1: ")[2] for line in lines] == [
        f"Model '{name}': spec: unknown field 'secretNam'; did you mean 'secretName'?" for name in ("one", "two")
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "nothing.yaml: there is no such file"), (b"\xff\xfe\x00", "nothing.yaml: cannot be read")],
)
def test_what_cannot_be_read(content, expected, tmp_path, monkeypatch):
    """A file that is not there, or is no text, is wrong usage, and named."""
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("nothing.yaml").write_bytes(content)
    result = run("-f", "nothing.yaml")
    assert result.exit_code == 2
    assert expected in result.stderr


def test_empty_folder(tmp_path):
    """A folder without manifests is wrong usage."""
    result = run("-f", str(tmp_path))
    assert result.exit_code == 2
    assert "no manifest in this folder" in result.stderr
