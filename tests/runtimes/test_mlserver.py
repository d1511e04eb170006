"""Custom runtimes written for MLServer, as people write them: life cycle, requests and answers, errors, streams.

The folders of `mlserver_folders` are data. What is not here: routes and metrics (test_mlserver_routes), odd answers
(test_mlserver_payloads), the engine around the runtime (tests/serving), the codecs themselves (tests/compat).
"""

import ast
import asyncio
import contextlib
import json
import logging
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from headrace import compat
from headrace.errors import InvalidRequest, LoadFailed, ModelError, NotSupported, SettingsError, UnsafeArtifact
from headrace.payload import DTYPES, InferenceRequest, RequestedOutput, Tensor, TensorSpec
from headrace.runtimes import find
from headrace.runtimes.base import Source
from headrace.runtimes.mlserver import MlserverRuntime

FOLDERS = Path(__file__).parent / "mlserver_folders"


@pytest.fixture(autouse=True)
def process():
    """The import path and its finders as they were; the stand-in itself may stay imported."""
    compat.remove()
    before = list(sys.path), list(sys.meta_path)
    yield
    compat.remove()
    assert (sys.path, sys.meta_path) == before


def source_of(folder, **parameters):
    file = folder / "model-settings.json"
    settings = json.loads(file.read_text())
    return Source(
        reference=settings["implementation"],
        parameters={"settings": settings, "source": str(file), "package": "auto", **parameters},
    )


def write(folder, code, *, name="models.py", implementation="models.M", **settings):
    """A folder with one module and its settings."""
    folder.mkdir(exist_ok=True, parents=True)
    if code is not None:
        (folder / name).write_text(code)
    given = {"name": folder.name, "implementation": implementation, **settings}
    (folder / "model-settings.json").write_text(json.dumps(given))
    return folder


HEAD = """
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, ResponseOutput

"""


@contextlib.asynccontextmanager
async def served(folder, **parameters):
    """The runtime, from load to unload."""
    runtime = MlserverRuntime(source_of(folder, **parameters))
    try:
        first = await asyncio.to_thread(runtime.load)
        runtime.signature = await runtime.begin() or first
        yield runtime
        await runtime.end()
    finally:
        runtime.unload()


def tensor(name, datatype, values, shape=None, **parameters):
    if datatype == "BYTES":
        array = np.empty(len(values), np.object_)
        array[:] = [each.encode() if isinstance(each, str) else each for each in values]
    else:
        array = np.array(values, DTYPES[datatype])
    return Tensor(name, datatype, array if shape is None else array.reshape(shape), parameters)


def ask(*inputs, outputs=(), headers=None, protocol="v2_rest", identity="1", **parameters):
    return InferenceRequest(
        model_name="m",
        id=identity,
        inputs=inputs,
        outputs=tuple(RequestedOutput(each) for each in outputs),
        headers=headers or {},
        parameters=parameters,
        protocol=protocol,
    )


def texts(response):
    return [each.decode() for each in response.outputs[0].data.ravel()]


# -- life cycle --


async def test_a_class_with_decode_args_and_a_model_uri_answers():
    """decode_args gives arrays by name, and get_model_uri finds the file beside the settings."""
    async with served(FOLDERS / "divorce") as runtime:
        response = await runtime.answer(
            ask(tensor("marriage", "FP64", [[1.0], [2.0]]), tensor("age", "FP32", [[1.0], [0.5]]))
        )
        assert response.model_name == "divorce"
        assert response.model_version == "v0.2"
        (output,) = response.outputs
        assert (output.name, output.datatype, output.shape) == ("output-0", "FP64", (2, 1))
        assert output.data.ravel().tolist() == [1.5, 4.0]
        assert output.parameters == {"content_type": "np"}


async def test_the_signature_is_that_of_the_settings():
    """Platform and inputs of model-settings.json are the signature's; without batching settings it is not batchable."""
    async with served(FOLDERS / "divorce") as runtime:
        signature = runtime.signature
        assert signature.platform == "numpyro"
        assert signature.inputs == (TensorSpec(name="marriage", datatype="FP64", shape=(-1,), content_type="np"),)
        assert not signature.strict
        assert not signature.batchable
        assert not runtime.streams
        assert runtime.routes == ()


async def test_the_signature_is_what_load_declared_and_batchable_by_settings():
    """Inputs and outputs that load sets are in begin's signature, and max_batch_size with max_batch_time batch."""
    async with served(FOLDERS / "chooser") as runtime:
        assert [each.name for each in runtime.signature.outputs] == ["total", "text"]
        assert runtime.signature.outputs[1].content_type == "str"
        assert runtime.signature.inputs[0].shape == (-1, 2)
        assert runtime.signature.batchable
        assert runtime.signature.platform == "mlserver"


async def test_metadata_of_the_models_own_is_the_signature(tmp_path):
    """A model that overrides metadata is described by what it answers."""
    code = """
from mlserver import MLModel
from mlserver.types import MetadataModelResponse, MetadataTensor, Parameters

class M(MLModel):
    async def metadata(self):
        tensor = MetadataTensor(name="x", datatype="INT8", shape=[2])
        parameters = Parameters(k="v")
        return MetadataModelResponse(
            name=self.name, platform="mine", versions=["9"], inputs=[tensor], parameters=parameters
        )
"""
    async with served(write(tmp_path / "m", code)) as runtime:
        assert runtime.signature.platform == "mine"
        assert runtime.signature.inputs == (TensorSpec(name="x", datatype="INT8", shape=(2,)),)
        assert runtime.signature.outputs == ()
        assert runtime.signature.declared == {
            "platform": "mine",
            "versions": ["9"],
            "inputs": [{"name": "x", "datatype": "INT8", "shape": [2]}],
            "outputs": None,
            "parameters": {"k": "v"},
        }


async def test_what_load_says_of_its_tensors_is_told_whole(tmp_path):
    """Tensors that the code sets are declared with their parameters, those of the settings alone are not."""
    code = """
from mlserver import MLModel
from mlserver.types import Datatype, MetadataTensor, Parameters

class M(MLModel):
    async def load(self):
        parameters = Parameters(content_type="np", unit="cm")
        self.inputs = [MetadataTensor(name="new", datatype=Datatype.FP32, shape=[-1, 4], parameters=parameters)]
        return True
"""
    settings = {"inputs": [{"name": "old", "datatype": "BYTES", "shape": [1]}]}
    settings["outputs"] = settings["inputs"]
    async with served(write(tmp_path / "m", code, **settings)) as runtime:
        assert runtime.signature.declared == {
            "inputs": [
                {
                    "name": "new",
                    "datatype": "FP32",
                    "shape": [-1, 4],
                    "parameters": {"content_type": "np", "unit": "cm"},
                }
            ]
        }


async def test_the_request_codec_of_the_settings_is_in_the_signature():
    """parameters.content_type is the signature's content type."""
    async with served(FOLDERS / "frames") as runtime:
        assert runtime.signature.content_type == "pd"


async def test_extra_parameters_reach_the_class():
    """parameters.extra and unknown parameters are in settings.parameters, and our settings name the very class."""
    async with served(FOLDERS / "settings_reader") as runtime:
        known = json.loads(texts(await runtime.answer(ask()))[0])
        assert known == {
            "threshold": 0.25, "labels": ["no", "yes"], "own": [1, 2], "class": compat.provided(), "name": "reader"
        }  # fmt: skip


async def test_what_load_makes_on_its_loop_works_in_predict_and_unload():
    """A lock, a queue, a task and a session made in load are on the loop of predict, and unload closes them there."""
    runtime = MlserverRuntime(source_of(FOLDERS / "session"))
    await asyncio.to_thread(runtime.load)
    await runtime.begin()
    answers = await asyncio.gather(*(runtime.answer(ask(tensor("x", "INT64", [each]))) for each in range(5)))
    assert [each.outputs[0].data.tolist() for each in answers] == [[[each + 1]] for each in range(5)]
    session, worker = runtime._model.session, runtime._model.worker
    await runtime.end()
    runtime.unload()
    assert session.closed
    assert worker.done()


UNLOADED = (
    HEAD
    + """
import threading

class M(MLModel):
    async def unload(self):
        Path(self.settings.parameters.extra["to"]).write_text(threading.current_thread().name)
        return True

from pathlib import Path
"""
)


@pytest.mark.parametrize("where", ["without a loop", "with a loop running"])
def test_unload_without_end_still_awaits_the_models_own(where, tmp_path):
    """Where end was never awaited, unload runs the model's coroutine itself, whether a loop runs here or not."""
    folder = write(tmp_path / "m", UNLOADED, parameters={"extra": {"to": str(tmp_path / "said")}})
    runtime = MlserverRuntime(source_of(folder))
    runtime.load()
    asyncio.run(runtime.begin())

    async def unload():
        runtime.unload()

    if where == "without a loop":
        runtime.unload()
    else:
        asyncio.run(unload())
    name = (tmp_path / "said").read_text()
    assert name == (threading.current_thread().name if where == "without a loop" else "headrace-unload")


def test_a_model_that_never_began_is_not_asked_to_unload(tmp_path):
    """Unload after load alone forgets the code, and the model's own unload is not called."""
    folder = write(tmp_path / "m", UNLOADED, parameters={"extra": {"to": str(tmp_path / "said")}})
    runtime = MlserverRuntime(source_of(folder))
    runtime.load()
    runtime.unload()
    assert not (tmp_path / "said").exists()
    assert "models" not in sys.modules


# -- loading that fails --


@pytest.mark.parametrize(
    ("code", "implementation", "said"),
    [
        (HEAD + "class M(MLModel):\n    async def load(self): return None", "models.M", "load returned None"),
        (HEAD + "class M(MLModel):\n    async def load(self): return False", "models.M", "should return True"),
        (HEAD + "class M(MLModel):\n    async def load(self): raise KeyError('a\\nb')", "models.M", "load: KeyError: "),
        (HEAD + "class M(MLModel):\n    def __init__(self, s): raise OSError('no disk')", "models.M", "OSError: no disk"),
        (HEAD + "class Other(MLModel): ...", "models.M", "has no class 'M'; its runtimes are: Other"),
        ("class M: ...", "models.M", "expected a subclass of mlserver.MLModel"),
        ("import a_module_that_is_not_there", "models.M", "No module named 'a_module_that_is_not_there'"),
        ("this is no Python", "models.M", "SyntaxError"),
        (None, "models.M", "No module named 'models'"),
        ("", "M", "names no class"),
        ("from mlserver_unheard_of import Model", "models.M", "run: pip install mlserver-unheard-of"),
        (HEAD + "class M(MLModel): ...", "models.M", None),
    ],
    ids=[
        "load gives None", "load gives False", "load raises", "constructor raises", "no such class", "no MLModel",
        "missing library", "bad syntax", "no such module", "no dotted path", "official runtime", "control",
    ],
)  # fmt: skip
async def test_a_model_that_cannot_be_loaded_says_why(code, implementation, said, tmp_path):
    """What goes wrong before the first request is LoadFailed that names the cause, on one line."""
    folder = write(tmp_path / "m", code, implementation=implementation)
    if said is None:
        async with served(folder):
            return
    with pytest.raises(LoadFailed) as failed:
        async with served(folder):
            pass
    assert said in str(failed.value)
    assert "\n" not in str(failed.value)
    assert "Traceback" not in str(failed.value)


def test_invalid_model_settings_are_a_failed_load(tmp_path):
    """Settings that MLServer's own class refuses are named in LoadFailed."""
    folder = write(tmp_path / "m", HEAD + "class M(MLModel): ...", max_batch_size="many")
    runtime = MlserverRuntime(source_of(folder))
    with pytest.raises(LoadFailed, match="max_batch_size"):
        runtime.load()
    runtime.unload()


def test_an_unknown_parameter_of_the_source_is_named(tmp_path):
    """A key that the runtime does not know is a SettingsError, and so is a package nobody offers."""
    with pytest.raises(SettingsError, match="sorce"):
        MlserverRuntime(Source(reference="m.M", parameters={"sorce": "x"})).load()
    with pytest.raises(SettingsError, match="'other'; expected auto or provided"):
        MlserverRuntime(Source(reference="m.M", parameters={"package": "other"})).load()


def test_code_that_nobody_trusts_is_not_run():
    """Under a load policy nothing is imported."""
    source = Source(reference="models.M", parameters={}, allowed_globals=())
    with pytest.raises(UnsafeArtifact, match="load_policy"):
        MlserverRuntime(source).load()


def test_the_runtime_is_found_by_name_and_claims_no_path(tmp_path):
    """`mlserver` is in the registry, and a folder with model-settings.json is not claimed by content."""
    assert find("mlserver") is MlserverRuntime
    assert MlserverRuntime.recognise(FOLDERS / "divorce") is None


# -- the model's own modules --


async def test_two_folders_with_modules_of_one_name_do_not_meet(tmp_path):
    """models.py and helpers.py of two folders each stay with their own, also when imported late, in predict."""
    before = set(sys.modules)  # what another test imported under such a name is there again afterwards
    folders = []
    for number in (1, 2, 3):
        folder = write(
            tmp_path / str(number),
            HEAD
            + """
import helpers

class M(MLModel):
    async def load(self):
        import helpers as again
        import importlib
        self.found = [helpers.VALUE, again.VALUE, importlib.import_module("later_in_load").VALUE]
        return True

    async def predict(self, payload):
        import package.inner
        from later import VALUE
        values = [*self.found, VALUE, package.inner.VALUE]
        return InferenceResponse(model_name="m", outputs=[
            ResponseOutput(name="v", shape=[len(values)], datatype="INT64", data=values)])
""",
        )
        for name in ("helpers", "later", "later_in_load", "package/inner"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / f"{name}.py").write_text(
                f"VALUE = {number}" if "/" not in name else f"from . import deep\nVALUE = deep.VALUE * {number}"
            )
        (folder / "package" / "deep.py").write_text(f"VALUE = {10 * number}")
        folders.append(folder)
    async with contextlib.AsyncExitStack() as stack:
        runtimes = [await stack.enter_async_context(served(folder)) for folder in folders]
        for runtime, number in [*zip(runtimes, (1, 2, 3), strict=True)] * 2:
            (output,) = (await runtime.answer(ask())).outputs
            assert output.data.tolist() == [number] * 4 + [10 * number**2]
    assert not {"helpers", "later", "later_in_load", "package", "package.inner"} & (set(sys.modules) - before)


async def test_folders_load_side_by_side(tmp_path):
    """Folders with the same names that load at the same time, in threads and on the loop, do not mix."""
    folders = [
        write(
            tmp_path / str(number),
            HEAD
            + f"""
import asyncio
import time
time.sleep(0.01)
import helpers

class M(MLModel):
    async def load(self):
        await asyncio.sleep(0.01)
        import in_load
        self.value = [helpers.VALUE, in_load.VALUE]
        return self.value == [{number}, {number}]
""",
        )
        for number in range(4)
    ]
    for number, folder in enumerate(folders):
        (folder / "helpers.py").write_text(f"VALUE = {number}")
        (folder / "in_load.py").write_text(f"VALUE = {number}")
    runtimes = [MlserverRuntime(source_of(folder)) for folder in folders]
    await asyncio.gather(*(asyncio.to_thread(runtime.load) for runtime in runtimes))
    await asyncio.gather(*(runtime.begin() for runtime in runtimes))
    for runtime in runtimes:
        await runtime.end()
        runtime.unload()


async def test_pickles_of_the_folders_classes_load_in_load(tmp_path):
    """An artifact that names a class of helpers.py is unpickled by load, though another folder has a helpers.py too."""
    folders = []
    for number in (1, 2):
        folder = write(
            tmp_path / str(number),
            HEAD
            + """
import pickle
from pathlib import Path

class M(MLModel):
    async def load(self):
        self.thing = pickle.loads((Path(self.settings._source).parent / "thing.pkl").read_bytes())
        return self.thing.number() == self.settings.parameters.extra["number"]
""",
            parameters={"extra": {"number": number}},
        )
        (folder / "helpers.py").write_text(f"class Thing:\n    def number(self): return {number}\n")
        (folder / "thing.pkl").write_bytes(b"chelpers\nThing\n)\x81.")
        folders.append(folder)
    async with served(folders[0]), served(folders[1]):
        pass


async def test_a_changed_file_is_read_again(tmp_path):
    """A model that is loaded anew in the same process runs the file as it is now, while the old one runs on."""
    code = (
        HEAD
        + """
class M(MLModel):
    async def predict(self, payload):
        return InferenceResponse(model_name="{0}", outputs=[])
"""
    )
    folder = write(tmp_path / "m", code.format("old"))
    async with served(folder) as old:
        write(tmp_path / "m", code.format("much newer"))
        async with served(folder) as new:
            assert (await new.answer(ask())).model_name == "much newer"
            assert (await old.answer(ask())).model_name == "old"


async def test_modules_of_the_search_path_and_installed_packages_work(tmp_path):
    """A class in a package of a folder on the search path is found, with what it imports from there."""
    (tmp_path / "root" / "mypkg").mkdir(parents=True)
    (tmp_path / "root" / "shared_by_models.py").write_text("NAME = 'shared'")
    (tmp_path / "root" / "mypkg" / "__init__.py").write_text("from .runtime import MyRuntime")
    (tmp_path / "root" / "mypkg" / "runtime.py").write_text(
        HEAD
        + """
import shared_by_models

class MyRuntime(MLModel):
    async def predict(self, payload):
        return InferenceResponse(model_name=shared_by_models.NAME, outputs=[])
"""
    )
    folder = write(tmp_path / "root" / "models" / "m", None, implementation="mypkg.MyRuntime")
    async with served(folder, search_path=[str(tmp_path / "root")]) as runtime:
        assert (await runtime.answer(ask())).model_name == "shared"


async def test_neighbours_and_late_imports_of_a_folder_as_people_write_it():
    """A runtime with a neighbour imported at the top and late answers texts."""
    async with served(FOLDERS / "tagger") as runtime:
        response = await runtime.answer(ask(tensor("t", "BYTES", ["the cat of rome", "a dog"])))
        assert texts(response) == ["cat/rome", "dog"]
        assert response.outputs[0].shape == (2, 1)
        assert response.outputs[0].parameters == {"content_type": "str"}


# -- requests and answers --


async def test_an_answer_whose_shape_is_its_length_is_served(caplog):
    """shape=[len(text)] with one text, as in the well-known JSON example, is one element, said once in the log."""
    async with served(FOLDERS / "json_echo") as runtime:
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                response = await runtime.answer(ask(tensor("echo", "BYTES", ['{"a": [1, 2]}'])))
    (output,) = response.outputs
    assert output.shape == (1,)
    assert json.loads(output.data[0]) == {
        "request": {"echo": {"a": [1, 2]}},
        "server_response": "Hello from the server.",
    }
    assert [each.getMessage() for each in caplog.records if "echo_response" in each.getMessage()] == [
        "model 'json-hello-world': output 'echo_response' says shape [81] but holds 1 elements; it is answered as [1]"
    ]


async def test_frames_come_and_go():
    """Inputs become a DataFrame by the request codec, and a DataFrame is an output for each column."""
    async with served(FOLDERS / "frames") as runtime:
        response = await runtime.answer(
            ask(
                tensor("height", "FP64", [1.0, 2.0]),
                tensor("weight", "FP64", [3.0, 4.0]),
                tensor("name", "BYTES", ["a", "b"], content_type="str"),
            )
        )
        score, name = response.outputs
        assert score.data.ravel().tolist() == [3.0, 8.0]
        assert name.data.ravel().tolist() == [b"A", b"B"]
        assert response.parameters["content_type"] == "pd"


async def test_headers_come_and_go_in_parameters():
    """Transport headers are parameters.headers; those that the model sets leave the parameters and become headers."""
    async with served(FOLDERS / "greeter") as runtime:
        response = await runtime.answer(ask(headers={"x-user": "ada"}, language="de"))
        assert texts(response) == ["hallo ada"]
        assert response.headers == {"x-greeted": "ada", "x-count": "3"}
        assert response.parameters == {"took": {"ms": [1.5]}}
        assert response.model_version == "7"


@pytest.mark.parametrize(("asked", "answered"), [("mine", "mine"), ("", "an-id-of-its-own")])
async def test_the_callers_id_wins(asked, answered):
    """An answer has the request's id, and the model's own only where the request has none."""
    async with served(FOLDERS / "greeter") as runtime:
        assert (await runtime.answer(ask(headers={"x-user": "ada"}, identity=asked))).id == answered


SEES = (
    HEAD
    + """
class M(MLModel):
    async def predict(self, payload):
        (x,) = payload.inputs
        seen = [payload.id, x.name, x.shape, x.datatype, [*x.data], type(x.data[0]).__name__,
            x.parameters and x.parameters.model_dump(), payload.outputs and [o.model_dump() for o in payload.outputs],
            payload.parameters.model_dump()]
        return InferenceResponse(model_name="", outputs=[
            ResponseOutput(name="seen", shape=[1], datatype="BYTES", data=[repr(seen)])])
"""
)


@pytest.mark.parametrize(
    ("request_", "seen"),
    [
        (
            ask(tensor("t", "BYTES", ["ä"], content_type="str"), outputs=["a"], headers={"h": "1"}, top=[1]),
            ["1", "t", [1], "BYTES", ["ä"], "str", {"content_type": "str"}, [{"name": "a"}],
             {"top": [1], "headers": {"h": "1"}}],
        ),
        (
            ask(tensor("t", "BYTES", ["ä"]), protocol="v2_grpc", identity=""),
            [None, "t", [1], "BYTES", ["ä".encode()], "bytes", None, None, {"headers": {}}],
        ),
        (
            ask(tensor("t", "BYTES", [b"\xff"]), protocol="v1"),
            ["1", "t", [1], "BYTES", [b"\xff"], "bytes", None, None, {"headers": {}}],
        ),
        (
            ask(tensor("x", "FP32", [[1, 2], [3, 4]])),
            ["1", "x", [2, 2], "FP32", [1.0, 2.0, 3.0, 4.0], "float", None, None, {"headers": {}}],
        ),
        (
            ask(Tensor("x", "BF16", np.array([0x3FC0, 0xC000], np.uint16))),
            ["1", "x", [2], "FP32", [1.5, -2.0], "float", None, None, {"headers": {}}],
        ),
        (
            ask(tensor("x", "BOOL", [True, False])),
            ["1", "x", [2], "BOOL", [True, False], "bool", None, None, {"headers": {}}],
        ),
    ],
    ids=["text of REST", "bytes of gRPC", "no text", "matrix", "bfloat", "booleans"],
)  # fmt: skip
async def test_a_request_is_what_mlserver_would_give(request_, seen, tmp_path):
    """Names, shapes, flat data, text or bytes by the wire, parameters, headers and requested outputs reach predict."""
    async with served(write(tmp_path / "m", SEES)) as runtime:
        response = await runtime.answer(request_)
        assert ast.literal_eval(texts(response)[0]) == seen
        assert response.model_name == "m"
        assert response.id == request_.id


async def test_the_requested_outputs_are_the_models_to_select():
    """What the caller asks for is in payload.outputs, and without any the model's own default is answered."""
    async with served(FOLDERS / "chooser") as runtime:
        x = tensor("x", "FP32", [[1, 2], [3, 4]])
        assert [each.name for each in (await runtime.answer(ask(x))).outputs] == ["total"]
        both = await runtime.answer(ask(x, outputs=["text", "total"]))
        assert [each.name for each in both.outputs] == ["text", "total"]
        assert both.outputs[0].data.ravel().tolist() == [b"[1.0, 2.0]", b"[3.0, 4.0]"]
        assert both.outputs[1].datatype == "FP32"


async def test_a_predict_that_is_no_coroutine_answers(tmp_path):
    """A plain `def predict` and a plain `def load` are taken as they are."""
    code = (
        HEAD
        + """
class M(MLModel):
    def load(self): return True
    def predict(self, payload): return InferenceResponse(model_name="plain", outputs=[])
"""
    )
    async with served(write(tmp_path / "m", code)) as runtime:
        assert (await runtime.answer(ask())).model_name == "plain"


# -- errors --


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        ("teapot", 418, "short and stout"),
        ("inference", 400, "not like this"),
        ("status", 500, "a status that is no error's"),
        ("http", 451, '{"why": "law"}'),
        ("nothing", 500, "Model 'faults' returned no predictions after inference: expected an InferenceResponse, came NoneType"),
        ("dict", 500, "came dict"),
        ("codec", 400, "There was an error encoding / decoding the payload: The 'np' codec only supports a single input"),
    ],
)  # fmt: skip
async def test_the_model_ends_a_request_with_a_status_of_its_own(fault, status, said):
    """MLServerError, its subclasses, HTTPException and answers that are none have their status and text."""
    async with served(FOLDERS / "faults") as runtime:
        with pytest.raises(ModelError) as failed:
            await runtime.answer(ask(tensor("a", "FP32", [1]), tensor("b", "FP32", [1]), fault=fault))
        assert failed.value.status == status
        assert said in str(failed.value)


async def test_any_other_exception_is_the_models_failure():
    """A ValueError of the model's own code is raised as it is, for the engine to count."""
    async with served(FOLDERS / "faults") as runtime:
        with pytest.raises(ValueError, match="my own mistake"):
            await runtime.answer(ask(fault="own"))


async def test_what_a_codec_cannot_decode_is_the_callers_mistake(tmp_path):
    """A ValueError raised while a codec decodes an input is InvalidRequest, whoever calls the codec."""
    code = (
        HEAD
        + """
from mlserver.codecs import InputCodec, register_input_codec

@register_input_codec
class Picky(InputCodec):
    ContentType = "picky"

    @classmethod
    def decode_input(cls, request_input):
        raise ValueError("cannot read this")

class M(MLModel):
    async def predict(self, payload):
        return self.decode(payload.inputs[0])
"""
    )
    async with served(write(tmp_path / "m", code)) as runtime:
        with pytest.raises(InvalidRequest, match="cannot be decoded: cannot read this"):
            await runtime.answer(ask(tensor("x", "FP32", [1], content_type="picky")))


# -- streams --


async def test_a_stream_is_what_predict_stream_yields():
    """predict_stream gets an iterator of the one request, and each response is one part, in the model's context."""
    async with served(FOLDERS / "typewriter") as runtime:
        assert runtime.streams
        parts = [each async for each in runtime.answer_stream(ask(tensor("prompt", "BYTES", ["to be or not"])))]
        assert [texts(each) for each in parts] == [["to"], ["be"], ["or"], ["not"]]
        assert {each.id for each in parts} == {"1"}


async def test_a_stream_ends_with_the_models_error():
    """MLServerError in the midst of a stream follows the parts before it, with its status."""
    async with served(FOLDERS / "typewriter") as runtime:
        parts = runtime.answer_stream(ask(tensor("prompt", "BYTES", ["go stop never"])))
        assert texts(await anext(parts)) == ["go"]
        with pytest.raises(ModelError, match="told to stop") as failed:
            await anext(parts)
        assert failed.value.status == 503


async def test_a_stream_that_nobody_reads_on_is_closed(tmp_path):
    """Closing the stream closes the model's own generator."""
    code = (
        HEAD
        + """
class M(MLModel):
    closed = False
    async def predict_stream(self, payloads):
        try:
            while True:
                yield InferenceResponse(model_name="m", outputs=[])
        finally:
            M.closed = True
"""
    )
    async with served(write(tmp_path / "m", code)) as runtime:
        stream = runtime.answer_stream(ask())
        await anext(stream)
        await stream.aclose()
        assert runtime._model.closed


async def test_a_model_with_streams_only_says_so_to_a_plain_request():
    """A plain request to class without predict is NotSupported, and names the way that works."""
    async with served(FOLDERS / "typewriter") as runtime:
        with pytest.raises(NotSupported, match="infer_stream"):
            await runtime.answer(ask())
