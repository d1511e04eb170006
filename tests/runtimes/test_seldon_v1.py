"""Component classes of Seldon Core v1 as models: found, constructed, asked; what they declare, refuse and measure."""

import asyncio
import textwrap

import numpy as np
import pytest

import headrace
from headrace.errors import InvalidRequest, LoadFailed, ModelError, SettingsError, UnsafeArtifact
from headrace.payload import InferenceRequest, RequestedOutput, Tensor
from headrace.runtimes.base import Source
from headrace.runtimes.python import PythonRuntime
from headrace.runtimes.seldon_v1 import REWARD, TOLD, TRUTH, SeldonRuntime
from headrace.testing.runtimes import RuntimeConformance

MODEL = """
    from seldon_core.user_model import SeldonComponent, SeldonResponse

    class Scaler(SeldonComponent):
        def __init__(self, factor=2.0):
            self.factor = float(factor)

        def load(self):
            self.ready = True

        def predict(self, X, names, meta=None):
            if self.factor < 0:
                from seldon_core.flask_utils import SeldonMicroserviceException
                raise SeldonMicroserviceException("negative", status_code=409)
            return SeldonResponse(
                X * self.factor,
                tags={"names": list(names)},
                metrics=[{"type": "GAUGE", "key": "rows", "value": len(X)}],
            )

        def transform_output(self, X, names):
            return X + 1

        def init_metadata(self):
            return {
                "name": "scaler",
                "platform": "scaling",
                "inputs": [{"messagetype": "ndarray", "schema": {"names": ["a", "b"], "shape": [2]}}],
                "outputs": [{"name": "scaled", "datatype": "FP64", "shape": [-1, 2]}],
            }
"""


def write(folder, text=MODEL, name="Scaler.py"):
    (folder / name).write_text(textwrap.dedent(text))
    return folder / name


def loaded(**source):
    runtime = SeldonRuntime(Source(**source))
    return runtime, runtime.load()


def asked(*tensors, **rest):
    return InferenceRequest(model_name="m", inputs=tensors, **rest)


X = Tensor("x", "FP64", np.array([[1.0, 2.0]]), {"names": '["a", "b"]'})


class TestFile(RuntimeConformance):
    name = "seldon_v1"
    any_suffix = False
    nan = "accepted"

    def save(self, folder):
        return write(folder)

    def inputs(self):
        return {"x": np.arange(6, dtype=np.float64).reshape(3, 2)}


class TestFolder(TestFile):
    any_suffix = True

    def save(self, folder):
        write(folder)
        write(folder, "def train(): ...", "training.py")
        return folder


# -- where it is found --


@pytest.mark.parametrize("form", ["file", "module", "path", "folder"])
async def test_where_a_class_is_found(tmp_path, form):
    """file.py:Class, module:Class, a file and a folder all lead to the class of the file's name."""
    file = write(tmp_path)
    source = {
        "file": {"reference": f"{file}:Scaler"},
        "module": {"reference": "Scaler:Scaler", "path": tmp_path},
        "path": {"path": file},
        "folder": {"path": tmp_path},
    }[form]
    runtime, _ = loaded(**source, parameters={"factor": "3"})
    response = await runtime.answer(asked(X))
    assert response.outputs[0].data.tolist() == [[3.0, 6.0]]
    runtime.unload()


def test_it_is_told_from_a_plain_class(tmp_path):
    """A component named as its file is claimed before the runtime of plain Python classes; another class is not."""
    component = write(tmp_path, "class M:\n    def predict(self, X, features_names=None): return X", "M.py")
    plain = write(tmp_path, "class Model:\n    def predict(self, x, y): return x", "model.py")
    mine, theirs = SeldonRuntime.recognise(component), PythonRuntime.recognise(component)
    assert mine.confidence > theirs.confidence
    assert SeldonRuntime.recognise(plain) is None


def test_what_it_declares(tmp_path):
    """init_metadata is the signature, in Seldon's form or V2's; without it nothing is declared."""
    _, signature = loaded(path=write(tmp_path))
    assert signature.platform == "scaling"
    assert [(each.name, each.datatype, each.shape) for each in signature.inputs] == [("input-0", "FP64", (-1, 2))]
    assert [(each.name, each.shape) for each in signature.outputs] == [("scaled", (-1, 2))]
    _, signature = loaded(path=write(tmp_path, "class M:\n    def predict(self, X, names): return X", "M.py"))
    assert (signature.inputs, signature.outputs) == ((), ())


# -- what it is asked --


async def test_names_tags_and_metrics(tmp_path):
    """Names of columns reach the class, its tags are the answer's parameter and its metrics the model's."""
    runtime, _ = loaded(path=write(tmp_path))
    response = await runtime.answer(asked(X))
    assert response.parameters == {"tags": {"names": ["a", "b"]}}
    assert response.outputs[0].name == "scaled"
    assert [(name, value) for name, _, value in runtime.logged()] == [("rows", 1.0)]
    assert runtime.logged() == []


@pytest.mark.parametrize(("method", "expected"), [("predict", [[2.0, 4.0]]), ("transform_output", [[2.0, 3.0]])])
async def test_the_method_that_is_asked(tmp_path, method, expected):
    """The parameter `method` says which of the class's methods answers."""
    runtime, _ = loaded(path=write(tmp_path), parameters={"method": method})
    assert (await runtime.answer(asked(X))).outputs[0].data.tolist() == expected


async def test_a_constructor_that_takes_method_keeps_it(tmp_path):
    """A class whose constructor has a parameter `method` of its own gets it."""
    text = """
        class M:
            def __init__(self, method="predict"): self.method = method
            def predict(self, X, names): return self.method
    """
    runtime, _ = loaded(path=write(tmp_path, text, "M.py"), parameters={"method": "predict_proba"})
    assert (await runtime.answer(asked(X))).outputs[0].data.tolist() == [b"predict_proba"]


async def test_an_object_in_memory():
    """An object of such a class is served as it is."""

    class M:
        def transform_input(self, x, names):
            return x * 10

    runtime, _ = loaded(model=M())
    assert (await runtime.answer(asked(X))).outputs[0].data.tolist() == [[10.0, 20.0]]


async def test_what_the_class_raises(tmp_path):
    """Seldon's exception ends the request with its status."""
    runtime, _ = loaded(path=write(tmp_path), parameters={"factor": -1})
    with pytest.raises(ModelError, match="negative") as raised:
        await runtime.answer(asked(X))
    assert raised.value.status == 409


async def test_an_output_nobody_gives(tmp_path):
    """Asking for an output that the class does not give is the caller's mistake."""
    runtime, _ = loaded(path=write(tmp_path))
    with pytest.raises(InvalidRequest, match=r"'other'.*scaled"):
        await runtime.answer(asked(X, outputs=(RequestedOutput("other"),)))


async def test_requests_at_once_keep_their_answers(tmp_path):
    """Requests that come at once each get the answer to their own rows."""
    runtime, _ = loaded(path=write(tmp_path))
    requests = [asked(Tensor("x", "FP64", np.array([[float(at), 0.0]]))) for at in range(50)]
    answers = await asyncio.gather(*[runtime.answer(request) for request in requests])
    assert [each.outputs[0].data[0, 0] for each in answers] == [2.0 * at for at in range(50)]


@pytest.mark.parametrize(
    ("text", "parameters", "error", "said"),
    [
        ("class M:\n    def route(self, X, names): return 0", {}, LoadFailed, "it has route"),
        ("class M:\n    def predict(self, X, names): return X", {"method": "route"}, SettingsError, "transform_input"),
        ("class M:\n    def predict(self, X, names): return X", {"method": "transform_input"}, LoadFailed, "has no"),
        ("class M:\n    def predict(self, X, names): return X", {"factor": 1}, SettingsError, "factor"),
        ("class M:\n    def load(self): 1 / 0\n    def predict(self, X, names): return X", {}, LoadFailed, "ZeroDiv"),
        ("class Other:\n    def predict(self, X, names): return X", {}, LoadFailed, "named as its file"),
    ],
    ids=["router", "no method", "other method", "parameter", "load", "name"],
)
def test_what_cannot_be_served(tmp_path, text, parameters, error, said):
    """A class that is no model, lacks the method, or refuses its parameters fails to load and says why."""
    with pytest.raises(error, match=said):
        loaded(path=write(tmp_path, text, "M.py"), parameters=parameters)


def test_code_of_nobody_who_is_trusted(tmp_path):
    """Code is refused, not run, where the load policy trusts nobody."""
    with pytest.raises(UnsafeArtifact):
        loaded(
            path=write(tmp_path, "raise SystemExit\nclass M:\n    def predict(self, X, names): ...", "M.py"),
            allowed_globals=(),
        )


def test_it_is_served(tmp_path):
    """A component in a folder is served over HTTP without a word of configuration."""
    write(tmp_path)
    with headrace.serve(tmp_path, name="scaler") as server:
        assert server.client.predict([[1.0, 2.0]]).tolist() == [[2.0, 4.0]]


async def test_what_an_answer_was_worth_is_told_to_a_component_that_asks():
    """By a request that asks nothing, with the features and the truth; who does not ask says so by its signature."""

    class Learner:
        def predict(self, X, names):  # noqa: N803 - as they are called
            return X

        def send_feedback(self, features, names, reward, truth, routing=None):
            told.append((features.tolist(), list(names), reward, truth.tolist()))

    told = []
    runtime, signature = loaded(model=Learner())
    assert signature.properties[TOLD] == "send_feedback"
    answer = await runtime.answer(asked(X, parameters={REWARD: 0.5, TRUTH: [[3.0]]}))
    assert (answer.outputs, told) == ((), [([[1.0, 2.0]], ["a", "b"], 0.5, [[3.0]])])
    runtime.unload()

    class Silent:
        def predict(self, X, names):  # noqa: N803 - as they are called
            return X

    runtime, signature = loaded(model=Silent())
    assert TOLD not in signature.properties
    runtime.unload()
