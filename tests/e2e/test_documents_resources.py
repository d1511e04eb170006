"""The pages about resources, against a real server: each manifest that they show is applied and asked, each walk walked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import joblib
import pytest
import yaml
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from headrace.cli.group import headrace
from headrace.control import check, parse

ROOT = Path(__file__).parents[2]
HEAD = "apiVersion: headrace.io/v1\n"
ROW = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": [5.1, 3.5, 1.4, 0.2]}]}
MODELS = ("scale", "churn", "fraud")


def blocks(page, language):
    """The blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def manifests(page):
    """The manifests that a page shows. A block that is the spec of a pipeline becomes the pipeline `example`."""
    for text in blocks(page, "yaml"):
        if text.startswith(("steps:", "allowCycles:")):
            spec = "".join(f"  {line}\n" for line in text.splitlines())
            yield f"{HEAD}kind: Pipeline\nmetadata: {{name: example}}\nspec:\n{spec}"
        elif "kind:" in text:
            yield text


def names(text):
    """Kind and name of what a manifest declares."""
    return [(each["kind"], each["metadata"]["name"]) for each in yaml.safe_load_all(text) if each]


def title(text):
    """What a manifest declares, as the id of a test."""
    return " ".join(f"{kind}/{name}" for kind, name in names(text))


SHOWN = [
    pytest.param(text, id=f"{page}: {title(text)}")
    for page in ("README.md", *(f"docs/{name}.md" for name in ("resources", "pipelines", "experiments", "rollouts")))
    for text in manifests(page)
]


@pytest.mark.parametrize("text", SHOWN)
def test_a_manifest_of_the_documents_is_right(text):
    """What a page shows can be read, and has no fault beside the models and pipelines that it speaks of."""
    shop = next(each for each in manifests("docs/pipelines.md") if ("Pipeline", "shop") in names(each))
    read = parse.documents([parse.File(name="page.md", text=text, base="/here")])
    stored = {each.resource.key: each.resource for each in parse.documents([parse.File(name="o", text=shop, base="/")])}
    taken = {name for each in read for name in asked(each.resource.spec)} - {name for _, name in names(text)}
    assert check.faults(read, stored, taken=taken, revisions={"churn": (1, 2, 3)}) == []


def asked(spec):
    """Names of models that a spec speaks of."""
    yield from MODELS
    for each in getattr(spec, "candidates", ()):
        yield each.name.partition("@")[0]
    for field in ("stable", "candidate"):
        if hasattr(spec, field):
            yield getattr(spec, field).partition("@")[0]
    if getattr(spec, "mirror", None) is not None:
        yield spec.mirror.name


@pytest.fixture(scope="module")
def place(tmp_path_factory, iris):
    """A folder with the models and the Python of the pages."""
    folder = tmp_path_factory.mktemp("documents")
    rows, labels = iris
    scale = StandardScaler().fit(rows)
    (folder / "models").mkdir()
    joblib.dump(scale, folder / "models" / "scale.joblib")
    for name, strength in (("churn-1", 1.0), ("churn-2", 0.1), ("fraud", 0.01)):
        model = LogisticRegression(C=strength, max_iter=500).fit(scale.transform(rows), labels)
        joblib.dump(model, folder / "models" / f"{name}.joblib")
    for text in blocks("docs/pipelines.md", "python"):
        (folder / re.match(r"# (\w+\.py)\n", text)[1]).write_text(text)
    models = [
        f"{HEAD}kind: Model\nmetadata: {{name: {name}}}\nspec: {{uri: models/{file}.joblib}}\n"
        for name, file in (("scale", "scale"), ("churn", "churn-1"), ("fraud", "fraud"))
    ]
    (folder / "models.yaml").write_text("---\n".join(models))
    return folder


@pytest.fixture
def server(serve, tmp_path):
    """A server that waits for resources, with nothing in it."""
    return serve("--control-port", "0", "--state", tmp_path / "state.db", "--optimize", "off")


@pytest.fixture
def run(server, place, monkeypatch):
    """Runs a command in the folder, against the server; gives what it prints."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("HEADRACE_CONTROL_URL", server.control_url)
    monkeypatch.setenv("HEADRACE_URL", server.url)

    def run(line, code=0):
        result = CliRunner().invoke(headrace, line.split())
        assert result.exit_code == code, (line, result.output, result.stderr)
        return result.stdout

    return run


def test_pipelines(run, server, place):
    """Every pipeline of its page becomes ready and answers a row of four numbers."""
    run("apply -f models.yaml --wait")
    for text in manifests("docs/pipelines.md"):
        (place / "page.yaml").write_text(text)
        run("apply -f page.yaml --wait --timeout 30")
        ((_, name),) = names(text)
        status, _, reply = server.ask(f"/v2/pipelines/{name}/infer", ROW)
        assert status == 200, (text, reply)
        assert reply["outputs"], text


def test_a_bandit_learns(run, server, place):
    """The commands that the page shows for a bandit: a request that has an id, and a reward for it."""
    run("apply -f models.yaml --wait")
    text = next(each for each in manifests("docs/pipelines.md") if ("Pipeline", "bandit") in names(each))
    (place / "page.yaml").write_text(text)
    run("apply -f page.yaml --wait --timeout 30")
    status, headers, _ = server.ask("/v2/pipelines/bandit/infer", {"id": "7", **ROW})
    assert (status, headers["headrace-routing"] in {"choose=a", "choose=b"}) == (200, True)
    assert server.ask("/v2/pipelines/bandit/feedback", {"id": "7", "reward": 1})[0] == 200
    assert server.ask("/v2/pipelines/bandit/feedback", {"reward": 1, "routing": {"choose": "a"}})[0] == 200
    assert server.ask("/v2/pipelines/bandit/feedback", {"id": "nobody", "reward": 1})[0] == 400


def test_the_walk_through_resources(run, server, place):
    """The first walk of the page, with what it shows: plan, apply, ask, look, change, see the history, undo, delete."""
    (shop,) = (each for each in manifests("docs/resources.md") if ("Pipeline", "shop") in names(each))
    told = "\n".join(blocks("docs/resources.md", "console"))
    (place / "shop.yaml").write_text(shop)
    plan = run("plan -f shop.yaml", code=1)
    assert plan in told
    applied = run("apply -f shop.yaml --wait").splitlines()
    assert sorted(applied[:3]) == ["model/churn created", "model/scale created", "pipeline/shop created"]
    assert run("plan -f shop.yaml").count("created") == 0
    status, _, reply = server.ask("/v2/pipelines/shop/infer", ROW)
    assert (status, reply["model_name"], reply["outputs"][0]["data"]) == (200, "shop", [0])
    assert server.ask("/v2/models/shop.pipeline/infer", ROW)[0] == 200
    assert server.ask("/v2/models/nobody/infer", ROW, {"seldon-model": "shop.pipeline"})[0] == 200
    assert run("graph shop") in told
    shown = [line.split()[:-1] for line in run("get").splitlines() if line]
    assert all(line in [each.split()[:-1] for each in told.splitlines()] for line in shown), shown
    (place / "shop.yaml").write_text(shop.replace("churn-1", "churn-2"))
    assert run("diff -f shop.yaml", code=1) in told
    assert run("plan -f shop.yaml", code=1) in told
    run("apply -f shop.yaml --wait")
    history = run("history model churn")
    assert "uri: models/churn-1.joblib -> models/churn-2.joblib" in history
    run("rollback model churn --wait")
    assert "models/churn-1.joblib" in run("get models")
    run("delete model scale", code=6)
    run("delete -f shop.yaml")
    assert server.ask("/v2/pipelines/shop/infer", ROW)[0] == 404


def test_experiments_and_canaries(run, server, place):
    """The experiments of their page share requests, copy them to the mirror, and give way to a canary."""
    run("apply -f models.yaml --wait")
    ab, shadow, canary = manifests("docs/experiments.md")
    (place / "page.yaml").write_text(ab)
    run("apply -f page.yaml --wait")
    routes = {server.ask("/v2/models/churn/infer", ROW)[1]["x-seldon-route"] for _ in range(60)}
    assert routes == {":churn_1:", ":fraud_1:"}
    stuck = {
        server.ask("/v2/experiments/ab/infer", ROW, {"x-seldon-route": ":fraud_1:"})[1]["x-seldon-route"]
        for _ in range(9)
    }
    assert stuck == {":fraud_1:"}
    run("delete experiment ab")
    (place / "page.yaml").write_text(shadow)
    run("apply -f page.yaml --wait")
    assert {server.ask("/v2/models/churn/infer", ROW)[0] for _ in range(20)} == {200}
    (told,) = json.loads(run("describe experiment shadow --json"))
    assert set(told["status"]["details"]["counts"]) == {"churn", "fraud"}
    run("delete experiment shadow")
    (place / "page.yaml").write_text(canary)
    run("apply -f page.yaml --wait")
    assert "1 -> 2" in run("get models")
    assert server.ask("/v2/models/churn/versions/2/infer", ROW)[0] == 200


def test_the_chain_of_the_first_page(serve, place, tmp_path):
    """The pipeline of README answers as shown, from a server that begins with its file."""
    for name, file in (("scale", "scale"), ("churn", "churn-1")):
        (tmp_path / f"{name}.joblib").write_bytes((place / "models" / f"{file}.joblib").read_bytes())
    (text,) = manifests("README.md")
    (tmp_path / "shop.yaml").write_text(text)
    server = serve(
        "-f", tmp_path / "shop.yaml", "--state", tmp_path / "s.db", "--control-port", "0", "--optimize", "off"
    )
    status, _, reply = server.ask("/v1/models/shop:predict", {"instances": [[5.1, 3.5, 1.4, 0.2]]})
    assert (status, reply) == (200, {"predictions": [0]})


def test_what_fails_at_the_start_is_said(serve, tmp_path):
    """A pipeline whose code cannot be loaded is named at the start with the reason; the server serves the rest."""
    (tmp_path / "wrong.py").write_text("class Wrong:\n    pass\n")
    manifest = (
        f"{HEAD}kind: Pipeline\nmetadata: {{name: p}}\nspec: {{steps: [{{name: a, python: 'wrong.py:Wrong'}}]}}\n"
    )
    (tmp_path / "p.yaml").write_text(manifest)
    server = serve("-f", tmp_path / "p.yaml", "--state", tmp_path / "s.db", "--control-port", "0")
    assert any(line.startswith("pipeline/p is not ready: ") and "predict" in line for line in server.errors)
