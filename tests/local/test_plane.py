"""The control plane of one process: what is declared comes back with the state file, and so does what was learnt."""

from __future__ import annotations

import dataclasses
import json

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from headrace.app import App
from headrace.control.events import Event
from headrace.control.parse import File
from headrace.errors import SettingsError
from headrace.monitoring.settings import EventSettings
from headrace.payload import InferenceRequest, Tensor
from headrace.settings import Settings

CODE = """
import numpy as np


class A:
    def predict(self, x: np.ndarray) -> np.ndarray:
        return x + 1


class B:
    def predict(self, x: np.ndarray) -> np.ndarray:
        return x + 2
"""
BANDIT = """
apiVersion: headrace.io/v1
kind: Pipeline
metadata: {name: bandit}
spec:
  steps:
  - name: choose
    route: {type: thompsonSampling, seed: 1, branches: [{name: a}, {name: b}]}
  - {name: first, python: "steps.py:A", inputs: [choose.branches.a]}
  - {name: second, python: "steps.py:B", inputs: [choose.branches.b]}
  output: {steps: [first, second], stepsJoin: any}
"""


def settings(folder, **control):
    base = Settings()
    return dataclasses.replace(
        base,
        http=dataclasses.replace(base.http, port=0),
        grpc=dataclasses.replace(base.grpc, enabled=False),
        metrics=dataclasses.replace(base.metrics, enabled=False),
        models=dataclasses.replace(base.models, cache_dir=str(folder / "cache")),
        control=dataclasses.replace(base.control, enabled=True, port=0, state=str(folder / "state.db"), **control),
    )


def file(folder, text):
    (folder / "steps.py").write_text(CODE)
    return File(name="bandit.yaml", text=text, base=str(folder))


async def ask(app, name="bandit"):
    tensor = Tensor("x", "FP64", np.zeros((1, 2)))
    return await app.models.route(name).infer(InferenceRequest(model_name=name, inputs=(tensor,)))


async def test_what_a_bandit_learnt_survives_a_restart_and_a_new_version(tmp_path):
    """After rewards for one branch alone, the next process and the next version of the pipeline go on from there."""
    app = App(settings(tmp_path), [], resources=[file(tmp_path, BANDIT)])
    await app.start()
    for _ in range(200):
        app.models.route("bandit").feedback({"choose": "b"}, 1.0, None)
        app.models.route("bandit").feedback({"choose": "a"}, 0.0, None)
    await app.stop()

    again = App(
        settings(tmp_path), [], resources=[file(tmp_path, BANDIT.replace("[first, second]", "[second, first]"))]
    )
    await again.start()
    try:
        chosen = [(await ask(again)).headers["headrace-routing"] for _ in range(30)]
        assert set(chosen) == {"choose=b"}
    finally:
        await again.stop()


async def test_resources_come_back_without_their_files(tmp_path):
    """A server that is started with the state file alone serves what the one before was told."""
    app = App(settings(tmp_path), [], resources=[file(tmp_path, BANDIT)])
    await app.start()
    await app.stop()
    again = App(settings(tmp_path), [])
    await again.start()
    try:
        assert (await ask(again)).outputs[0].data.tolist() in ([[1.0, 1.0]], [[2.0, 2.0]])
        assert again.models.is_ready()
    finally:
        await again.stop()


async def test_other_machines_need_a_token(tmp_path):
    """The control API does not listen beyond this machine without one."""
    app = App(settings(tmp_path, host="0.0.0.0"), [])
    with pytest.raises(SettingsError, match=r"control\.token"):
        await app.start()
    await app.stop()


async def test_what_cannot_flow_between_models_that_came_together_stands_in_the_status(tmp_path):
    """Shapes are known once models are loaded: the pipeline is then not ready, with expected against found."""
    rows = np.random.default_rng(0).random((20, 4))
    joblib.dump(LinearRegression().fit(rows, rows[:, :3]), tmp_path / "narrow.joblib")
    joblib.dump(LinearRegression().fit(rows, rows), tmp_path / "wide.joblib")
    models = "".join(
        f"apiVersion: headrace.io/v1\nkind: Model\nmetadata: {{name: {name}}}\nspec: {{uri: {name}.joblib}}\n---\n"
        for name in ("narrow", "wide")
    )
    text = f"""{models}
apiVersion: headrace.io/v1
kind: Pipeline
metadata: {{name: bad}}
spec: {{steps: [{{name: narrow}}, {{name: wide, inputs: [narrow]}}], output: {{steps: [wide]}}}}
"""
    app = App(settings(tmp_path), [], resources=[file(tmp_path, text)])
    try:
        await app.start()
        (pipeline,) = app._plane.control.get("Pipeline")
        (ready,) = [each for each in pipeline.status.conditions if each.type == "Ready"]
        assert ready.status == "False"
        assert "expected FP64 [-1,4], found FP64 [-1,3]" in ready.message
    finally:
        await app.stop()


ROLLOUT = """
apiVersion: headrace.io/v1
kind: Model
metadata: {name: a}
spec: {uri: model.joblib}
---
apiVersion: headrace.io/v1
kind: Model
metadata: {name: b}
spec: {uri: model.joblib}
---
apiVersion: headrace.io/v1
kind: Rollout
metadata: {name: r}
spec: {stable: a, candidate: b, steps: [{weight: 20}], judge: {timeoutSeconds: 0.01}}
"""


async def test_a_model_is_told_of_as_rolled_back_when_its_rollout_gave_it_up_and_at_no_other_warning(tmp_path):
    """Of two warnings of a rollout, that its split cannot be made and that no decision came, only the second is one."""
    joblib.dump(LinearRegression().fit(np.eye(2), [0, 1]), tmp_path / "model.joblib")
    sink = tmp_path / "events.jsonl"
    events = EventSettings(sink=str(sink), spool=str(tmp_path / "spool"))
    app = App(dataclasses.replace(settings(tmp_path), events=events), [], resources=[file(tmp_path, ROLLOUT)])
    await app.start()
    control = app._plane.control
    try:
        warning = Event(kind="Rollout", name="r", type="Warning", reason="RolloutFailed", message="no split", at=1.0)
        await control.tell(warning)
        version = 0
        while control.get("Rollout", "r")[0].status.details.get("progress", {}).get("state") != "RolledBack":
            version = (await control.watch(version)).resource_version
        await control.settled()
        await control.tell(warning)
    finally:
        await app.stop()
    told = [json.loads(line)["data"] for line in sink.read_text().splitlines()]
    (one,) = [each for each in told if each["event"] == "rolled-back"]
    assert (one["model"], one["to_version"], one["reason"].partition(":")[0]) == ("b", "a", "TimedOut")
