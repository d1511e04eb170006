"""Explanations in processes of their own: real folders, real processes, a model that is a small coroutine.

What methods say of a model is their own tests'; here is who gets an explanation when, and who is not held up by it.
"""

from __future__ import annotations

import asyncio
import json
import os
import runpy
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from headrace.errors import (
    DeadlineExceeded,
    Forbidden,
    InvalidRequest,
    LoadFailed,
    ModelNotReady,
    NotFound,
    Overloaded,
    RuntimeFailed,
    SettingsError,
    WorkerDied,
)
from headrace.monitoring.settings import TrustSettings
from headrace.payload import InferenceRequest, InferenceResponse, RouteRequest, Tensor
from headrace.protocols.explain import ExplainRequest
from headrace.security import load_policy
from headrace.serving import explain_process
from headrace.serving.explain import Explaining
from headrace.serving.spec import ModelSpec
from headrace.trust.spec import Explainers

trust_folders = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("trust_folders.py"))))
ROW = np.array([[2.0, 0.5, -1.0, 0.0]])


class Model:
    """Answers as `trust_folders.probabilities`, and does as it is told."""

    def __init__(self):
        self.requests = []
        self.rows = 0
        self.error = None
        self.errors = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()

    async def __call__(self, request):
        self.requests.append(request)
        self.asked.set()
        await self.gate.wait()
        if self.error is not None and self.errors:
            self.errors -= 1
            raise self.error
        (tensor,) = request.inputs
        self.rows += len(tensor.data)
        output = Tensor("p", "FP64", trust_folders.probabilities(tensor.data))
        return InferenceResponse(model_name="m", outputs=(output,))


@pytest.fixture
def model():
    """A model."""
    return Model()


@pytest.fixture
async def explaining():
    """A server's explanations: one at a time, one may wait."""
    made = Explaining(TrustSettings(explain_processes=1, explain_queue=1))
    yield made
    await made.close()
    assert made.pids == ()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trust folder."""
    return trust_folders.write(tmp_path_factory.mktemp("m") / "trust")


@pytest.fixture
def explainable(explaining, model, folder):
    """The model, as something that can be explained."""
    return explaining.add(model="m", version="1", folder=folder, infer=model)


def nobody(name, version):
    """Nothing explains anything by its own folder."""
    raise ModelNotReady(f"model '{name}' is not loaded")


def asked(x=ROW, **rest):
    """A request."""
    inference = InferenceRequest(model_name="m", inputs=(Tensor("x", "FP64", np.atleast_2d(x)),))
    return ExplainRequest(inference=inference, **rest)


async def test_an_explanation_adds_up_to_what_the_model_says(explainable, model):
    """The Shapley values of a row, which another process asked the model for, sum to its answer less the base."""
    reply = await explainable(asked())
    (only,) = reply.explanations
    data, meta = json.loads(only.data), json.loads(only.meta)
    values, base = np.array(data["shap_values"]), np.array(data["expected_value"])
    total = values.reshape(2, 4).sum(axis=1) + base
    assert total == pytest.approx(trust_folders.probabilities(ROW)[0], abs=1e-9)
    assert (reply.explainer, reply.method, meta["params"]["background"]) == ("why", "permutation-shap", 20)
    assert (only.complete, only.row, only.model_rows) == (True, 0, model.rows)
    assert only.text


async def test_the_model_is_asked_as_somebody_who_is_not_logged(explainable, model):
    """Questions carry the headers that keep them out of logs and windows, and come in calls of many rows."""
    await explainable(asked())
    assert all(each.headers["seldon-skip-logging"] == "true" for each in model.requests)
    assert all(each.headers["headrace-internal"] for each in model.requests)
    assert all(each.deadline is not None for each in model.requests)
    assert len(model.requests) < model.rows / 10


async def test_a_method_that_the_folder_does_not_have_is_made_from_its_reference(explainable):
    """Any method can be named, with its own options; unknown names and options are refused with the nearest."""
    reply = await explainable(asked(explainer="kernel-shap"))
    assert reply.method == "kernel-shap"
    with pytest.raises(InvalidRequest, match="did you mean 'rule'"):
        await explainable(asked(explainer="rul"))
    with pytest.raises(InvalidRequest, match="did you mean 'permutations'"):
        await explainable(asked(options={"permutation": 4}))
    with pytest.raises(InvalidRequest, match="option 'permutations'"):
        await explainable(asked(options={"permutations": "many"}))
    fewer = await explainable(asked(options={"permutations": 2, "background": 10}))
    assert fewer.explanations[0].model_rows < reply.explanations[0].model_rows + 10_000
    assert json.loads(fewer.explanations[0].meta)["params"]["background"] == 10


async def test_rows_that_are_named_are_explained_in_their_order(explainable):
    """Of five rows two are named, and the answer has these, under their positions."""
    x = np.random.default_rng(0).normal(size=(5, 4))
    reply = await explainable(asked(x, rows=(3, 1)))
    assert [each.row for each in reply.explanations] == [3, 1]
    with pytest.raises(InvalidRequest, match="row 5"):
        await explainable(asked(x, rows=(5,)))


@pytest.mark.parametrize(("form", "begins"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
async def test_an_explanation_is_drawn(explainable, form, begins):
    """A picture is drawn where one is asked for, of one row alone."""
    (only,) = (await explainable(asked(format=form))).explanations
    assert only.image.startswith(begins)
    with pytest.raises(InvalidRequest, match="of one row"):
        await explainable(asked(np.zeros((2, 4)), format=form))


async def test_a_column_too_few_is_the_callers_fault(explainable):
    """Rows that do not fit the model are refused by name."""
    with pytest.raises(InvalidRequest, match="x"):
        await explainable(asked(np.ones((1, 3))))


async def test_a_folder_without_explainers_says_what_to_do(explaining, model, tmp_path):
    """Where there is no explainer the answer names the command that makes one, and the methods there are."""
    path = trust_folders.write(tmp_path / "trust", explainers=Explainers())
    explainable = explaining.add(model="n", version="", folder=path, infer=model)
    with pytest.raises(NotFound, match="headrace trust fit"):
        await explainable(asked())
    assert (await explainable(asked(explainer="permutation-shap"))).explanations


async def test_the_deadline_gives_what_there_is(explainable, model):
    """A model that answers nothing more costs the caller the deadline and no more, and the answer says it is none."""
    await explainable(asked())  # the process is there
    model.gate.clear()
    began = time.monotonic()
    reply = await explainable(asked(deadline_seconds=0.3))
    assert time.monotonic() - began < 20  # not until the gate opens
    assert not reply.explanations[0].complete


async def test_a_budget_of_rows_holds(explainable, model):
    """The model is asked for no more rows than the request allows."""
    reply = await explainable(asked(max_rows=500))
    assert model.rows <= 500
    assert reply.explanations[0].model_rows <= 500


async def test_a_busy_model_is_asked_again(explainable, model):
    """A model whose queue is full is asked later, without the caller noticing."""
    model.error, model.errors = Overloaded("full"), 3
    reply = await explainable(asked())
    assert reply.explanations[0].complete


async def test_an_error_of_the_model_is_the_callers(explainable, model):
    """What the model raises reaches the caller as it is, and the next explanation is made."""
    model.error, model.errors = RuntimeFailed("the model broke"), 1
    with pytest.raises(RuntimeFailed, match="the model broke"):
        await explainable(asked())
    assert (await explainable(asked())).explanations


async def test_one_too_many_is_told_to_come_back(explaining, explainable, model):
    """With one under way and one waiting, the third is refused at once; both others are answered."""
    model.gate.clear()
    first = asyncio.create_task(explainable(asked()))
    await model.asked.wait()
    second = asyncio.create_task(explainable(asked()))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="explain_queue"):
        await explainable(asked())
    model.gate.set()
    assert all(reply.explanations for reply in await asyncio.gather(first, second))
    assert len(explaining.pids) == 1


async def test_who_waits_too_long_is_told(explainable, model):
    """The time in the queue counts: a request whose deadline passes there fails as late, and the other is answered."""
    model.gate.clear()
    first = asyncio.create_task(explainable(asked()))
    await model.asked.wait()
    with pytest.raises(DeadlineExceeded, match="as a job"):
        await explainable(asked(deadline_seconds=0.1))
    model.gate.set()
    await first


async def test_a_caller_that_leaves_frees_its_place(explaining, explainable, model):
    """The process of a caller that leaves is told to stop, and makes the next explanation."""
    model.gate.clear()
    first = asyncio.create_task(explainable(asked()))
    await model.asked.wait()
    (pid,) = explaining.pids
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    model.gate.set()
    assert (await explainable(asked())).explanations[0].complete
    assert explaining.pids == (pid,)


async def test_a_caller_that_leaves_while_a_process_begins_costs_nobody_anything(explaining, explainable):
    """What the process says of an explanation that nobody waits for any more harms neither it nor the loop."""
    faults = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    first = asyncio.create_task(explainable(asked()))
    while not explaining.pids:
        await asyncio.sleep(0)
    (pid,) = explaining.pids
    for _ in range(3):  # it was sent, and nothing has come back
        await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await explainable(asked())).explanations[0].complete
    assert not faults
    assert pid


async def test_a_process_that_is_killed_costs_one_explanation(explaining, explainable, model):
    """Kill -9 in the middle is 503 for that caller; the next one has a new process."""
    model.gate.clear()
    first = asyncio.create_task(explainable(asked()))
    await model.asked.wait()
    (pid,) = explaining.pids
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerDied, match="SIGKILL"):
        await first
    model.gate.set()
    assert (await explainable(asked())).explanations[0].complete
    assert explaining.pids != (pid,)


async def test_a_process_that_hangs_is_ended(explaining, explainable, model, monkeypatch):
    """One that goes on after its deadline is killed, its caller is told, and the next one is answered."""
    monkeypatch.setattr(explain_process, "_GRACE_SECONDS", 0.2)
    model.gate.clear()
    first = asyncio.create_task(explainable(asked(deadline_seconds=1.0)))
    await model.asked.wait()
    (pid,) = explaining.pids
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(DeadlineExceeded, match="was ended"):
        await first
    model.gate.set()
    monkeypatch.setattr(explain_process, "_GRACE_SECONDS", 5.0)
    assert (await explainable(asked())).explanations[0].complete


async def test_a_caller_of_a_hanging_process_may_leave(explaining, explainable, model, monkeypatch):
    """Where the process does not hear that its caller left, it is killed, and the place is free."""
    monkeypatch.setattr(explain_process, "_GRACE_SECONDS", 0.2)
    model.gate.clear()
    first = asyncio.create_task(explainable(asked()))
    await model.asked.wait()
    os.kill(explaining.pids[0], signal.SIGSTOP)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    model.gate.set()
    assert (await explainable(asked())).explanations[0].complete


async def test_processes_end_when_nobody_asks(explaining, explainable, monkeypatch):
    """A process that nobody needs for long enough is ended, and one begins anew with the next request."""
    monkeypatch.setattr(explain_process, "_IDLE_SECONDS", 0.05)
    await explainable(asked())
    async with asyncio.timeout(60):
        while explaining.pids:
            await asyncio.sleep(0.02)
    assert (await explainable(asked())).explanations


async def test_a_job_says_how_far_it_is_and_gives_its_answer(explainable, model):
    """A job is queued or running with what was asked so far, then done with the reply."""
    model.gate.clear()
    status = explainable.submit(asked(np.zeros((2, 4))))
    await model.asked.wait()
    status = explainable.job(status.id)
    assert (status.state, status.of, status.explained) == ("running", 2, 0)
    assert status.model_rows > 0
    model.gate.set()
    status = await _done(explainable, status.id)
    assert (status.state, status.explained, len(status.reply.explanations)) == ("done", 2, 2)
    with pytest.raises(NotFound, match="no job 'x'"):
        explainable.job("x")


async def test_a_job_does_not_hold_callers_up(explainable, model):
    """While a job runs, a caller who waits is answered by another process."""
    model.gate.clear()
    status = explainable.submit(asked())
    await model.asked.wait()
    model.asked.clear()
    call = asyncio.create_task(explainable(asked()))
    await model.asked.wait()
    model.gate.set()
    await call
    assert (await _done(explainable, status.id)).state == "done"


async def test_a_job_that_is_cancelled_is_forgotten(explainable, model):
    """A cancelled job is gone, and its process free for the next."""
    model.gate.clear()
    status = explainable.submit(asked())
    await model.asked.wait()
    assert explainable.cancel(status.id).state == "cancelled"
    with pytest.raises(NotFound):
        explainable.job(status.id)
    model.gate.set()
    assert (await _done(explainable, explainable.submit(asked()).id)).state == "done"


async def test_a_job_that_fails_says_why(explainable, model):
    """The error of a failed job is its caller's to read; a request that can be none is refused at once."""
    model.error, model.errors = RuntimeFailed("the model broke"), 1
    status = await _done(explainable, explainable.submit(asked()).id)
    assert (status.state, status.error) == ("failed", "the model broke")
    with pytest.raises(InvalidRequest, match="no explainer"):
        explainable.submit(asked(explainer="nothing of the kind"))


async def test_the_loop_goes_on_while_an_explanation_is_made(explainable):
    """While an explanation of some seconds of computing is made, this process's loop turns thousands of times."""
    await explainable(asked())
    turns, done = 0, asyncio.create_task(explainable(asked(options={"permutations": 400})))
    while not done.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 1000


async def test_the_model_that_the_folder_names_answers_inference(explainable):
    """As a model, it answers a BYTES output with one JSON a row, with the headers of Seldon's explainers."""
    infer = explainable.infer(name=explainable.model)
    request = InferenceRequest(
        model_name="m-explainer",
        inputs=(Tensor("x", "FP64", np.zeros((2, 4))),),
        id="7",
        parameters={"explainer": "why", "explain_parameters": '{"permutations": 4}', "of_another_step": 1},
    )
    response = await infer(request)
    (output,) = response.outputs
    assert (output.name, output.datatype, output.shape, response.id) == ("explanation", "BYTES", (2,), "7")
    assert json.loads(output.data[0])["data"]["shap_values"]
    assert response.headers["x-seldon-alibi-type"] == "explanation"
    assert response.headers["x-headrace-detector-method"] == "permutation-shap"


async def test_a_model_explains_another(explaining, explainable, model):
    """A model of the runtime `explainer` explains the one that it names, by the method that it names, as MLServer's
    explainers answer.
    """
    spec = ModelSpec(
        name="why-m",
        runtime="explainer",
        parameters={"model": "m", "method": "permutation-shap", "options": {"permutations": 4}},
    )
    loaded = await explaining.load(spec, ask=lambda *_: model, explain=lambda *_: explainable)
    inputs = [{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": [1, 2, 3, 4]}]
    answer = await loaded.visit(
        RouteRequest(route="explain", method="POST", target="/explain", body=json.dumps({"inputs": inputs}).encode())
    )
    bare = json.loads(answer.body)
    assert bare["meta"]["params"]["permutations"] == 4
    reply = await loaded.explain(asked())
    assert (reply.model_name, reply.explainer) == ("m", "why")
    assert (await _done(loaded.explain, loaded.explain.submit(asked()).id)).state == "done"
    await loaded.close(1.0)
    assert (await explainable(asked())).explanations


async def test_a_model_may_explain_another_by_a_folder_of_its_own(explaining, model, folder):
    """With a trust folder as its path, it needs none beside the model that it explains."""
    spec = ModelSpec(name="why-x", runtime="explainer", path=str(folder), parameters={"model": "x"})
    loaded = await explaining.load(spec, ask=lambda *_: model, explain=nobody)
    assert (await loaded.explain(asked())).explanations
    await loaded.close(1.0)


@pytest.mark.parametrize(
    ("parameters", "error", "text"),
    [
        ({"model": "m", "method": "anchor-tabula"}, LoadFailed, "did you mean 'anchor-tabular'"),
        ({"method": "lime"}, LoadFailed, "parameters.model"),
        ({"modell": "m"}, SettingsError, "did you mean 'model'"),
    ],
    ids=["an unknown method", "nobody to explain", "an unknown parameter"],
)
async def test_a_model_that_cannot_explain_is_not_loaded(explaining, model, parameters, error, text):
    """What is wrong with a model that explains another is told when it is loaded."""
    with pytest.raises(error, match=text):
        await explaining.load(
            ModelSpec(name="e", runtime="explainer", parameters=parameters),
            ask=lambda *_: model,
            explain=nobody,
        )


async def test_an_explainer_of_alibis_is_never_unpickled(explaining, model, tmp_path):
    """A folder that alibi saved is refused with our method's name and the command that makes one of ours."""
    (tmp_path / "meta.dill").write_bytes(b"\x80\x04cos\nsystem\n.")
    spec = ModelSpec(
        name="e", runtime="explainer", path=str(tmp_path), parameters={"model": "m", "method": "anchor-tabular"}
    )
    with pytest.raises(LoadFailed, match="'anchor-tabular'") as caught:
        await explaining.load(spec, ask=lambda *_: model, explain=nobody)
    assert "headrace trust fit" in str(caught.value)


async def test_who_may_not_have_whole_answers_gets_no_explanation_of_them(explaining, model, folder):
    """What refuses a caller an explanation refuses it also through a model that explains the model."""

    def refuse(request):
        raise Forbidden("not for you")

    explainable = explaining.add(model="m", version="1", folder=folder, infer=model, check=refuse)
    spec = ModelSpec(name="e", runtime="explainer", parameters={"model": "m"})
    loaded = await explaining.load(spec, ask=lambda *_: model, explain=lambda *_: explainable)
    for explain in (explainable, loaded.explain):
        with pytest.raises(Forbidden):
            await explain(asked())
        with pytest.raises(Forbidden):
            explain.submit(asked())
    with pytest.raises(Forbidden):
        await loaded.infer(asked().inference)


async def _done(explainable, identity):
    async with asyncio.timeout(60):
        while (status := explainable.job(identity)).state in {"queued", "running"}:
            await asyncio.sleep(0.02)
    return status


# -- methods that look into the model --


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    """A linear model in a file, and the runtime's description of it."""
    import joblib
    from sklearn.linear_model import LinearRegression

    path = tmp_path_factory.mktemp("linear") / "model.joblib"
    x = np.random.default_rng(3).normal(size=(50, 4))
    joblib.dump(LinearRegression().fit(x, x @ [1.0, -2.0, 0.5, 0.0]), path)
    return path


def of_file(path, **changes):
    from headrace.serving.build import RuntimeSpec

    allowed = load_policy.decide(path, "restricted")
    return RuntimeSpec(**{"name": "l", "runtime": "sklearn", "path": str(path), "allowed_globals": allowed, **changes})


async def test_a_white_box_method_reads_the_model_itself(explaining, model, folder, linear):
    """Exact values of a linear model come from its file, read under the load policy, without asking the model."""
    explainable = explaining.add(model="l", version="", folder=folder, infer=model, artifact=of_file(linear))
    (only,) = (await explainable(asked(explainer="linear-shap"))).explanations
    values = np.array(json.loads(only.data)["shap_values"], float).ravel()
    assert values[3] == pytest.approx(0.0, abs=1e-9)
    assert json.loads(only.meta)["type"] == ["whitebox"]


@pytest.mark.parametrize(
    ("artifact", "error", "text"),
    [
        (lambda path: None, InvalidRequest, "permutation-shap"),
        (lambda path: of_file(path, environment="/an/environment"), InvalidRequest, "environment of its own"),
        (lambda path: of_file(path, allowed_globals=()), LoadFailed, "sklearn"),
    ],
    ids=["in memory", "elsewhere", "not to be trusted"],
)
async def test_a_model_that_may_not_be_read_is_not(explaining, model, folder, linear, artifact, error, text):
    """Where the model is not in a file, lives in another environment, or names what the load policy refuses, the
    answer says so.
    """
    explainable = explaining.add(model="l", version="", folder=folder, infer=model, artifact=artifact(linear))
    with pytest.raises(error, match=text):
        await explainable(asked(explainer="linear-shap"))


# -- time --


async def test_beginning_does_not_count(explainable):
    """The first request, for which a process must begin, has its time for the explanation: it is answered whole."""
    (only,) = (await explainable(asked(deadline_seconds=2.0))).explanations
    assert only.complete


async def test_the_transports_deadline_holds_whatever_is_left(explainable, model):
    """The connection's own deadline ends an explanation that has asked for more time, with what there is by then."""
    await explainable(asked())
    model.gate.clear()
    request = asked(deadline_seconds=30.0)
    inference = msgspec.structs.replace(request.inference, deadline=time.monotonic() + 1.0)
    reply = await explainable(msgspec.structs.replace(request, inference=inference))
    assert time.monotonic() < inference.deadline + 15  # not the 30 s that it asks for
    assert not reply.explanations[0].complete


async def test_an_explanation_outlives_its_models_engine(explaining, explainable, model, folder):
    """Where the model is replaced by one of its version (a faster engine), what is under way goes on with that."""
    model.gate.clear()
    first = asyncio.create_task(explainable(asked()))
    await model.asked.wait()
    newer = Model()
    explaining.add(model="m", version="1", folder=folder, infer=newer)
    model.error, model.errors = ModelNotReady("it was unloaded"), 10_000
    model.gate.set()
    assert (await first).explanations[0].complete
    assert newer.rows
