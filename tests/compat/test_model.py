"""MLModel, its helpers, custom handlers, and the helpers that model code calls."""

import asyncio
import gzip
import logging

import numpy as np
import pytest
from mlserver.codecs import NumpyCodec, NumpyRequestCodec, decode_inference_request
from mlserver.codecs.errors import CodecNotFound
from mlserver.codecs.utils import get_decoded
from mlserver.context import model_context
from mlserver.errors import InvalidModelURI, MLServerError
from mlserver.handlers import custom_handler, get_custom_handlers
from mlserver.logging import ModelLoggerFormatter, configure_logger, get_logger, logger
from mlserver.model import MLModel
from mlserver.raw import extract_raw, inject_raw, pack, unpack
from mlserver.settings import ModelSettings, Settings
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    RequestInput,
    RequestOutput,
    TensorData,
    _build,
)
from mlserver.utils import (
    extract_headers,
    generate_uuid,
    get_model_uri,
    insert_headers,
    schedule_with_callback,
    to_absolute_path,
)


def tensor(name="x", data=(1, 2), datatype="FP32", **parameters):
    return RequestInput(name=name, shape=[len(data)], datatype=datatype, data=list(data), parameters=parameters or None)


def model(kind=MLModel, **settings):
    return kind(ModelSettings(**{"name": "m", "implementation": kind, **settings}))


async def test_defaults():
    """A model that defines nothing loads, unloads, describes itself, and predicts nothing."""
    made = model(platform="p", versions=["1"], parameters={"version": "2", "content_type": "np"})
    assert (made.name, made.version, made.inputs, made.outputs, made.ready) == ("m", "2", [], [], False)
    assert await made.load() is True
    assert await made.unload() is True
    metadata = await made.metadata()
    assert metadata.model_dump() == {
        "name": "m",
        "versions": ["1"],
        "platform": "p",
        "inputs": [],
        "outputs": [],
        "parameters": {"content_type": "np"},
    }
    with pytest.raises(NotImplementedError):
        await made.predict(InferenceRequest(inputs=[]))


async def test_stream_of_predict():
    """A model that defines no stream answers the first request of one by predict."""

    class Echo(MLModel):
        async def predict(self, payload):
            return InferenceResponse(model_name=self.name, id=payload.id, outputs=[])

    async def requests():
        yield InferenceRequest(id="1", inputs=[])
        yield InferenceRequest(id="2", inputs=[])

    assert [response.id async for response in model(Echo).predict_stream(requests())] == ["1"]


async def test_metadata_set_while_loading():
    """Inputs and outputs that a model sets decide the codecs and are in its metadata."""
    made = model()
    made.inputs = [MetadataTensor(name="x", datatype="FP32", shape=[-1], parameters={"content_type": "np"})]
    made.outputs = [MetadataTensor(name="y", datatype="BYTES", shape=[-1], parameters={"content_type": "base64"})]
    assert made.decode(tensor()).tolist() == [1, 2]
    assert made.encode(["a"], RequestOutput(name="y")).data.root == [b"YQ=="]
    assert (await made.metadata()).inputs[0].name == "x"
    assert made.settings.outputs[0].name == "y"


def test_decode():
    """An input is decoded by its content type, else by the default codec, else its data are given."""
    made = model()
    assert made.decode(tensor(content_type="np"), default_codec=None).tolist() == [1, 2]
    assert made.decode(tensor(data=["a"], datatype="BYTES", content_type="str"), NumpyCodec) == ["a"]
    assert made.decode(tensor(), NumpyCodec).tolist() == [1, 2]
    assert made.decode(tensor()) == TensorData([1, 2])


def test_decode_request():
    """A request is decoded by its content type, the model's, the default codec's, else given as it is."""
    request = InferenceRequest(inputs=[tensor()])
    assert model().decode_request(request) is request
    assert model().decode_request(request, NumpyRequestCodec).tolist() == [1, 2]
    named = InferenceRequest(inputs=[tensor()], parameters={"content_type": "np"})
    assert model().decode_request(named).tolist() == [1, 2]
    request = InferenceRequest(inputs=[tensor()])
    assert model(parameters={"content_type": "np"}).decode_request(request).tolist() == [1, 2]


@pytest.mark.parametrize("content_type", [None, "nobodys"])
def test_a_request_that_names_no_codec_is_itself(content_type):
    """decode_inference_request gives such a request back, and its inputs are decoded all the same."""
    x = tensor(content_type="np")
    request = InferenceRequest(inputs=[x], parameters={"content_type": content_type} if content_type else None)
    assert decode_inference_request(request) is request
    assert get_decoded(request.inputs[0]).tolist() == [1, 2]


def test_decode_request_of_arrays():
    """A request of arrays is decoded without listing them."""
    request_input = _build.request_input("x", "FP32", np.ones((1, 2), dtype=np.float32))
    assert model().decode_request(_build.request([request_input]), NumpyRequestCodec).tolist() == [[1, 1]]
    assert _build.held(request_input.data) is not None


def test_encode():
    """An output is encoded by its content type, else by what it is, else by the default codec, else refused."""
    output = RequestOutput(name="y")
    made = model()
    assert made.encode(np.zeros(1), output).parameters.content_type == "np"
    assert made.encode(np.int64(3), output, NumpyCodec).data.root == [3]
    assert made.encode(["a"], RequestOutput(name="y", parameters={"content_type": "base64"})).data.root == [b"YQ=="]
    with pytest.raises(CodecNotFound, match=r"^Codec not found for output field with name 'y'$"):
        made.encode(3, output)


def test_encode_response():
    """A response is encoded by what the payload is, else by the default codec, else refused."""
    made = model(parameters={"version": "v1"})
    response = made.encode_response(["a"])
    assert (response.model_name, response.model_version, response.outputs[0].name) == ("m", "v1", "output-1")
    assert made.encode_response(np.int64(3), default_codec=NumpyRequestCodec).outputs[0].shape == [1]
    with pytest.raises(CodecNotFound, match=r"^Codec not found for output response with type <class 'int'>$"):
        made.encode_response(3)


def test_custom_handlers():
    """Marked methods are found by name, with their routes; an override that is not marked is none."""

    class Base(MLModel):
        @custom_handler(rest_path="/b", rest_method="GET")
        async def bb(self):
            pass

        @custom_handler("/a")
        def aa(self):
            pass

    class Quiet(Base):
        async def bb(self):
            pass

    found = get_custom_handlers(model(Base))
    assert [(handler.rest_path, handler.rest_method, method.__name__) for handler, method in found] == [
        ("/a", "POST", "aa"),
        ("/b", "GET", "bb"),
    ]
    assert [handler.rest_path for handler, _ in get_custom_handlers(model(Quiet))] == ["/a"]


async def test_rest_responses():
    """Responses of custom handlers render NaN as null and bytes as text; errors have their status."""
    from mlserver.rest.errors import handle_mlserver_error
    from mlserver.rest.responses import Response, ServerSentEvent

    assert Response({"a": float("nan"), "b": b"x"}).body == b'{"a":null,"b":"x"}'
    assert ServerSentEvent(InferenceRequest(inputs=[])).encode() == b'data: {"inputs":[]}\n\n'
    answer = await handle_mlserver_error(None, MLServerError("no", 418))
    assert (answer.status_code, answer.body) == (418, b'{"error":"no"}')


async def test_rest_requests():
    """Requests to custom handlers are decompressed before their JSON is read."""
    from mlserver.rest.requests import Request

    async def receive():
        return {"type": "http.request", "body": gzip.compress(b'{"a":1}'), "more_body": False}

    headers = [(b"content-encoding", b"gzip")]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    assert await request.json() == {"a": 1}
    assert await request.body() == b'{"a":1}'


def settings_of(uri, source=None):
    settings = ModelSettings(name="m", implementation=MLModel, parameters={"uri": uri})
    settings._source = None if source is None else str(source)
    return settings


async def test_uri(tmp_path):
    """A uri leads to a file, to a well-known file in a folder, or to the folder; relative to the settings' file."""
    (tmp_path / "model.bin").write_text("")
    source = tmp_path / "model-settings.json"
    assert await get_model_uri(settings_of("./model.bin", source)) == str(tmp_path / "model.bin")
    assert await get_model_uri(settings_of(str(tmp_path))) == str(tmp_path)
    assert await get_model_uri(settings_of(str(tmp_path)), ["other", "model.bin"]) == str(tmp_path / "model.bin")
    assert await get_model_uri(settings_of(f"file:{tmp_path}/model.bin")) == str(tmp_path / "model.bin")


async def test_uri_of_nothing(tmp_path):
    """A uri that is not set, or leads nowhere, is refused with status 422."""
    with pytest.raises(InvalidModelURI, match=r"^Invalid URI specified for model m$"):
        await get_model_uri(ModelSettings(name="m", implementation=MLModel))
    with pytest.raises(InvalidModelURI, match=r"\(nope\)$") as caught:
        await get_model_uri(settings_of("nope", tmp_path / "model-settings.json"))
    assert caught.value.status_code == 422


async def test_uri_with_scheme():
    """A foreign scheme goes through, unless the caller says which it takes."""
    assert await get_model_uri(settings_of("s3://b/k")) == "s3://b/k"
    assert await get_model_uri(settings_of("s3://b/k"), allowed_schemes=["s3"]) == "s3://b/k"
    with pytest.raises(InvalidModelURI):
        await get_model_uri(settings_of("s3://b/k"), allowed_schemes=["gs"])


def test_absolute_path():
    """A relative path starts at the settings' folder; an absolute one, or one without settings' file, stays."""
    assert to_absolute_path(settings_of("x", "/q/model-settings.json"), "../x") == "/x"
    assert to_absolute_path(settings_of("x", "/q/model-settings.json"), "/abs") == "/abs"
    assert to_absolute_path(settings_of("x"), "./x") == "./x"


def test_headers(caplog):
    """Headers go into a request's parameters, over those that the caller put there, and out of a response's."""
    request = InferenceRequest(inputs=[], parameters={"k": 1, "headers": {"fake": "1"}})
    assert insert_headers(request, {"a": "b"}) is request
    assert (request.parameters.headers, request.parameters.k) == ({"a": "b"}, 1)
    assert "will be replaced" in caplog.text
    assert insert_headers(InferenceRequest(inputs=[]), {"a": "b"}).parameters.headers == {"a": "b"}
    response = InferenceResponse(model_name="m", outputs=[], parameters={"headers": {"a": "b"}})
    assert extract_headers(response) == {"a": "b"}
    assert response.parameters.headers is None
    assert extract_headers(InferenceResponse(model_name="m", outputs=[])) is None


async def test_small_helpers():
    """Ids are fresh; a scheduled task calls back when it is done."""
    assert generate_uuid() != generate_uuid()
    done = asyncio.Event()
    task = schedule_with_callback(asyncio.sleep(0, "v"), lambda task: done.set())
    await asyncio.wait_for(done.wait(), 60)
    assert task.result() == "v"


@pytest.fixture
def quiet_logger():
    handlers, level = list(logger.handlers), logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def test_logger(quiet_logger):
    """The logger is the standard one of that name; configuring it twice adds one handler."""
    assert get_logger() is logging.getLogger("mlserver")
    before = len(quiet_logger.handlers)
    configure_logger()
    configure_logger(Settings(debug=True))
    assert len(quiet_logger.handlers) == before + 1
    assert quiet_logger.level == logging.DEBUG


@pytest.mark.parametrize(
    ("structured", "expected"),
    [(False, '[mlserver][m:2] INFO - say "hi"'), (True, '"message": "say \\"hi\\"", "model_name": "m"')],
    ids=["text", "json"],
)
def test_log_lines(structured, expected):
    """A line names the model at work; structured lines are JSON whatever the message holds."""
    record = logging.LogRecord("mlserver", logging.INFO, __file__, 1, 'say "%s"', ("hi",), None)
    formatter = ModelLoggerFormatter(Settings(use_structured_logging=structured))
    with model_context(ModelSettings(name="m", implementation=MLModel, parameters={"version": "2"})):
        assert expected in formatter.format(record)


def test_raw():
    """Tensors become the bytes of gRPC's raw contents and come back."""
    numbers, text = tensor(), tensor(data=["a", b"bc"], datatype="BYTES")
    assert pack(numbers) == np.array([1, 2], dtype="<f4").tobytes()
    assert pack(text) == b"\x01\0\0\0a\x02\0\0\0bc"
    assert unpack(numbers, pack(numbers)) == [1.0, 2.0]
    assert unpack(text, pack(text)) == [b"a", b"bc"]
    emptied, contents = extract_raw([numbers, text])
    assert [len(elem.data) for elem in emptied] == [0, 0]
    assert [elem.data.root for elem in inject_raw(emptied, contents)] == [[1.0, 2.0], [b"a", b"bc"]]


@pytest.mark.parametrize(("datatype", "raw"), [("FP32", b"\0\0\0"), ("BYTES", b"\x05\0\0\0a"), ("BYTES", b"\x01")])
def test_raw_of_wrong_size(datatype, raw):
    """Bytes that are too few for the tensor are refused."""
    import struct

    with pytest.raises(struct.error):
        unpack(tensor(datatype=datatype), raw)


def test_working_folder_is_left(tmp_path, monkeypatch):
    """A relative source is taken from the working folder, as the original does."""
    monkeypatch.chdir(tmp_path)
    assert to_absolute_path(settings_of("x", "rel/model-settings.json"), "x") == "rel/x"
