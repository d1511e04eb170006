"""A model that another server holds answers here under its name, in pipelines and experiments too."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from tests.local.test_plane import CODE, settings

from headrace.app import App
from headrace.control.parse import File
from headrace.errors import HeadraceError, InvalidResources
from headrace.payload import InferenceRequest, Tensor
from headrace.serving import discovery

HERE = """
apiVersion: headrace.io/v1
kind: Server
metadata: {name: other}
spec: {url: "URL"}
---
apiVersion: headrace.io/v1
kind: Model
metadata: {name: A}
spec: {server: other}
---
apiVersion: headrace.io/v1
kind: Pipeline
metadata: {name: twice}
spec:
  steps: [{name: one, model: A}, {name: two, model: A, inputs: [one]}]
  output: {steps: [two]}
"""


@pytest.fixture
async def other(tmp_path):
    """Another server, with a model in Python."""
    (tmp_path / "other.py").write_text(CODE)
    (tmp_path / "there").mkdir()
    app = App(settings(tmp_path / "there"), discovery.discover([f"{tmp_path / 'other.py'}:A"]))
    await app.start()
    yield app
    await app.stop()


async def ask(app, name):
    tensor = Tensor("x", "FP64", np.zeros((1, 2)))
    return await app.models.route(name).infer(InferenceRequest(model_name=name, inputs=(tensor,)))


async def test_a_model_of_another_server_is_a_model_here(tmp_path, other):
    """It answers by its name and as a step, with the signature that it has there."""
    manifest = File(name="m.yaml", text=HERE.replace("URL", f"http://127.0.0.1:{other.http_port}"), base=str(tmp_path))
    app = App(settings(tmp_path), [], resources=[manifest])
    await app.start()
    try:
        assert (await ask(app, "A")).outputs[0].data.tolist() == [[1.0, 1.0]]
        assert (await ask(app, "twice")).outputs[0].data.tolist() == [[2.0, 2.0]]
        served = app.models.route("A")
        assert served.signature is not None
        assert [each.name for each in served.signature.inputs] == ["x"]
    finally:
        await app.stop()


async def test_a_server_that_does_not_have_the_model_is_told_in_its_status(tmp_path, other):
    """The model is not ready, and the reason names server and model."""
    text = HERE.replace("URL", f"http://127.0.0.1:{other.http_port}").replace("name: A}", "name: missing}")
    text = text.replace("model: A", "model: missing")
    app = App(settings(tmp_path), [], resources=[File(name="m.yaml", text=text, base=str(tmp_path))])
    await app.start()
    try:
        (model,) = app._plane.control.get("Model")
        (ready,) = model.status.conditions
        assert ready.status == "False"
        assert "Server 'other' at http://127.0.0.1" in ready.message
        assert "'missing'" in ready.message
    finally:
        await app.stop()


async def test_files_are_not_sent_to_another_server(tmp_path):
    """A model with files that is pinned elsewhere is refused, rather than its files passed over."""
    text = HERE.replace("URL", "http://127.0.0.1:9").replace("{server: other}", "{server: other, uri: there}")
    (tmp_path / "there").mkdir()
    app = App(settings(tmp_path), [], resources=[File(name="m.yaml", text=text, base=str(tmp_path))])
    with pytest.raises(InvalidResources, match=r"spec\.uri: Server 'other' is elsewhere"):
        await app.start()
    await app.stop()


async def test_a_server_that_moves_is_followed_and_a_model_that_comes_home_is_never_missed(tmp_path, other):
    """Under requests, a model goes from another server to this process: each is answered; a wrong address is told."""
    url = f"http://127.0.0.1:{other.http_port}"
    app = App(settings(tmp_path), [], resources=[])
    await app.start()
    control = app._plane.control
    stop, failures = asyncio.Event(), []

    async def hammer():
        while not stop.is_set():
            try:
                await ask(app, "A")
            except HeadraceError as error:
                failures.append(error)
            await asyncio.sleep(0)

    try:
        await control.apply([File(name="m.yaml", text=HERE.replace("URL", url), base=str(tmp_path))])
        await control.settled()
        load = asyncio.create_task(hammer())
        (tmp_path / "steps.py").write_text(CODE)
        home = HERE.replace("URL", url).replace("{server: other}", '{reference: "steps.py:A"}')
        await control.apply([File(name="m.yaml", text=home, base=str(tmp_path))])
        await control.settled()
        stop.set()
        await load
        assert failures == []
        assert app.models.route("A").placement != "server"
        back = HERE.replace("URL", "http://127.0.0.1:9")
        await control.apply([File(name="m.yaml", text=back, base=str(tmp_path))])
        await control.settled()
        assert (await ask(app, "A")).outputs[0].data.tolist() == [[1.0, 1.0]]  # the revision before serves on
        await control.apply([File(name="m.yaml", text=HERE.replace("URL", url), base=str(tmp_path))])
        await control.settled()
        assert app.models.route("A").placement == "server"
    finally:
        stop.set()
        await app.stop()
