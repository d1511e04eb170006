"""Seldon Core v1's messages: what data become, in what form they are answered, feedback and errors.

Matrix: ndarray, tensor, tftensor by datatype, strData, binData, jsonData; one input, several columns, no signature;
bodies as JSON, forms and queries. Left out: customData, which nobody can look into.
"""

from __future__ import annotations

import base64
import contextlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from headrace.errors import InvalidRequest, RuntimeFailed, TooLarge
from headrace.payload import DTYPES, InferenceResponse, Signature, Tensor, TensorSpec
from headrace.protocols import seldon_v1


def declared(*specs):
    return Signature(platform="t", inputs=tuple(TensorSpec(name=n, datatype=d, shape=s) for n, d, s in specs))


IRIS = declared(("X", "FP32", (-1, 4)))
COLUMNS = declared(("age", "INT64", (-1,)), ("job", "BYTES", (-1, 1)))
TEXT = declared(("text", "BYTES", (-1,)))


def parse(document, signature=None, **fields):
    return seldon_v1.parse(json.dumps(document).encode(), model_name="m", signature=signature, **fields)


def render(request, *outputs, **fields):
    response = InferenceResponse(model_name="m", outputs=outputs, parameters=fields.pop("parameters", {}))
    return json.loads(seldon_v1.render(request, response, path={"m": "1"}, **fields))


def texts(*values):
    data = np.empty(len(values), object)
    data[:] = values
    return Tensor("y", "BYTES", data)


PROBABILITIES = Tensor("p", "FP32", np.array([[0.25, 0.75]], np.float32))


@pytest.mark.parametrize(
    ("data", "answered"),
    [
        pytest.param({"ndarray": [[1, 2, 3, 4]]}, {"ndarray": [[0.25, 0.75]]}, id="ndarray"),
        pytest.param(
            {"tensor": {"shape": [1, 4], "values": [1, 2, 3, 4]}},
            {"tensor": {"shape": [1, 2], "values": [0.25, 0.75]}},
            id="tensor",
        ),
        pytest.param(
            {"tftensor": {"dtype": "DT_FLOAT", "tensorShape": {"dim": [{"size": "1"}, {"size": "4"}]}}}
            | {"tftensor": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": 1}, {"size": 4}]}}}
            | {
                "tftensor": {
                    "dtype": "DT_FLOAT",
                    "tensor_shape": {"dim": [{"size": 1}, {"size": "4"}]},
                    "float_val": [1, 2, 3, 4],
                }
            },
            {
                "tftensor": {
                    "dtype": "DT_FLOAT",
                    "tensorShape": {"dim": [{"size": "1"}, {"size": "2"}]},
                    "floatVal": [0.25, 0.75],
                }
            },
            id="tftensor",
        ),
    ],
)
def test_the_answers_kind_follows_the_requests(data, answered):
    """Rows become the model's input in its datatype; names of columns without any are t:0, t:1, ..."""
    request = parse({"data": data}, IRIS)
    (tensor,) = request.inputs
    assert (tensor.name, tensor.datatype, tensor.data.tolist()) == ("X", "FP32", [[1, 2, 3, 4]])
    answer = render(request, PROBABILITIES)
    assert answer["data"] == {"names": ["t:0", "t:1"], **answered}
    assert answer["meta"]["requestPath"] == {"m": "1"}


def test_columns_go_by_name_or_by_order():
    """A model of several inputs gets a column each, a column that it does not know is left out."""
    for data in (
        {"names": ["job", "more", "age"], "ndarray": [["cook", 0, 40], ["smith", 0, 50]]},
        {"ndarray": [[40, "cook"], [50, "smith"]]},
    ):
        found = {tensor.name: tensor for tensor in parse({"data": data}, COLUMNS).inputs}
        assert found["age"].data.tolist() == [40, 50]
        assert found["job"].data.tolist() == [[b"cook"], [b"smith"]]
        assert found.keys() == {"age", "job"}


def test_names_stay_with_a_tensor():
    """Code that asks for names of columns finds them, and gives its own back the same way."""
    request = parse({"data": {"names": ["a", "b"], "ndarray": [[1, 2]]}})
    assert request.inputs[0].parameters == {"names": '["a","b"]'}
    for names in ('["no","yes"]', ["no", "yes"]):
        tensor = Tensor("p", "FP32", PROBABILITIES.data, {"names": names})
        assert render(request, tensor)["data"]["names"] == ["no", "yes"]


@pytest.mark.parametrize(
    ("values", "datatype"),
    [
        ([[1, 2]], "INT64"),
        ([[1, 2.5]], "FP64"),
        ([[1, None]], "FP64"),
        ([True], "BOOL"),
        (["a"], "BYTES"),
        ([], "FP64"),
    ],
)
def test_without_a_signature_data_are_as_they_look(values, datatype):
    """Integers, numbers, truth and texts each have their datatype."""
    (tensor,) = parse({"data": {"ndarray": values}}).inputs
    assert (tensor.datatype, tensor.name) == (datatype, "input-0")
    assert tensor.data.dtype == DTYPES[datatype]


@pytest.mark.parametrize(
    ("message", "content", "answers", "kind", "shown"),
    [
        ({"strData": "hi"}, b"hi", b"yo", "strData", "yo"),
        ({"strData": "hi"}, b"hi", b"\xff", "binData", "/w=="),
        ({"binData": "aGk="}, b"hi", b"yo", "binData", "eW8="),
        ({"jsonData": {"a": [1]}}, b'{"a":[1]}', b'{"b": 2}', "jsonData", {"b": 2}),
        ({"jsonData": "x"}, b'"x"', b"{no", "strData", "{no"),
    ],
)
def test_texts_bytes_and_json_are_one_element(message, content, answers, kind, shown):
    """They are answered as what they are."""
    request = parse(message, TEXT)
    assert request.inputs[0].data.tolist() == [content]
    assert request.kind == next(iter(message))
    assert render(request, texts(answers))[kind] == shown


def test_numbers_for_a_text_are_a_tensor():
    """As the wrapper answers arrays of numbers where the request had no array."""
    request = parse({"strData": "hi"})
    assert render(request, PROBABILITIES)["data"]["tensor"]["shape"] == [1, 2]
    assert render(request, texts(b"a", b"b"))["data"] == {"names": [], "ndarray": ["a", "b"]}


def test_several_outputs_stand_side_by_side():
    """As columns where they share rows, by name where they do not."""
    request = parse({"data": {"ndarray": [[1, 2]]}})
    label = Tensor("label", "INT64", np.array([7]))
    answer = render(request, label, PROBABILITIES)
    assert answer["data"] == {"names": ["label", "p:0", "p:1"], "ndarray": [[7.0, 0.25, 0.75]]}
    with_text = render(request, texts(b"x"), label)
    assert with_text["data"] == {"names": ["y", "label"], "ndarray": [["x", 7]]}
    apart = render(request, label, Tensor("z", "INT64", np.array([1, 2])))
    assert apart["jsonData"] == {"label": [7], "z": [1, 2]}


def test_meta_is_kept_and_made():
    """puid, tags, routing and path are the protocol's; a branch that is a number is one."""
    request = parse({"strData": "x", "meta": {"puid": "p1", "tags": {"a": 1}}})
    meta = render(request, texts(b"y"), routing="ab=1;eg=best", parameters={"tags": {"b": 2}})["meta"]
    assert meta == {
        "puid": "p1",
        "tags": {"a": 1, "b": 2},
        "routing": {"ab": 1, "eg": "best"},
        "requestPath": {"m": "1"},
    }
    assert request.id == "p1"
    made = [parse({"strData": "x"}).puid for _ in range(2)]
    assert made[0] != made[1]
    assert parse({"strData": "x"}, headers={"seldon-puid": "h1"}).puid == "h1"


NUMBERS = [name for name in DTYPES if name not in {"BF16", "BYTES"}]


@settings(deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("datatype", [*NUMBERS, "BYTES"])
def test_tftensors_come_back_as_they_went(datatype, data):
    """An answer as tftensor, sent as a request, is the same tensor in every datatype."""
    shape = data.draw(arrays.array_shapes(max_dims=3, max_side=3))
    elements = {"allow_nan": False, "allow_infinity": False} if DTYPES[datatype].kind == "f" else {}
    if datatype == "BYTES":
        values = data.draw(arrays.arrays(object, shape, elements=st.text().map(str.encode)))
    else:
        values = data.draw(arrays.arrays(DTYPES[datatype], shape, elements=elements))
    request = parse({"data": {"tftensor": {"dtype": "DT_INT32", "intVal": [1]}}})
    answer = render(request, Tensor("input-0", datatype, values))
    (tensor,) = parse({"data": {"tftensor": answer["data"]["tftensor"]}}).inputs
    assert (tensor.datatype, tensor.shape) == (datatype, shape)
    np.testing.assert_array_equal(tensor.data, values)


def test_tftensors_may_be_raw_or_repeat():
    """`tensorContent` is the bytes of it, and one value fills the shape."""
    raw = base64.b64encode(np.array([1, 2], np.int16).tobytes()).decode()
    dim = {"dim": [{"size": "2"}]}
    for value in ({"tensorContent": raw}, {"intVal": [1, 2]}):
        (tensor,) = parse({"data": {"tftensor": {"dtype": "DT_INT16", "tensorShape": dim, **value}}}).inputs
        assert (tensor.datatype, tensor.data.tolist()) == ("INT16", [1, 2])
    (tensor,) = parse({"data": {"tftensor": {"dtype": "DT_BOOL", "tensorShape": dim, "boolVal": [True]}}}).inputs
    assert tensor.data.tolist() == [True, True]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({}, "exactly one"),
        ({"strData": "a", "binData": "aGk="}, "exactly one"),
        ({"data": {}}, "ndarray"),
        ({"data": {"ndarray": [[1, 2], [3]]}}, "ragged"),
        ({"data": {"ndarray": [[1, 2, 3, "x"]]}}, "element 3"),
        ({"data": {"ndarray": 1}}, "list"),
        ({"data": {"names": "a", "ndarray": [[1]]}}, "names"),
        ({"data": {"tensor": {"shape": [3], "values": [1, 2]}}}, "2 elements"),
        ({"data": {"tensor": {"values": [1, 2]}}}, "shape"),
        ({"data": {"tftensor": {"dtype": "DT_QINT8"}}}, "DT_QINT8"),
        ({"data": {"tftensor": {"tensorShape": {"dim": [{"size": "2"}]}, "floatVal": [1, 2, 3]}}}, "3 elements"),
        ({"data": {"tftensor": {"tensorShape": {"dim": [{"size": "2"}]}, "tensorContent": "AAAA"}}}, "3 bytes"),
        ({"data": {"tftensor": {"tensorShape": {"dim": [{"size": "999999999"}]}, "floatVal": [1]}}}, "999999999"),
        ({"strData": 1}, "string"),
        ({"strData": "x"}, "FP32"),
        ({"binData": "?"}, "base64"),
        ({"data": {"ndarray": [[1]]}, "meta": []}, "meta"),
    ],
)
def test_what_is_no_message_is_refused(message, text):
    """The error names what is wrong, and is the caller's."""
    with pytest.raises(InvalidRequest, match=text):
        parse(message, TEXT if text in {"string", "base64"} else IRIS)


def test_columns_that_cannot_be_told_are_refused():
    """A model of two inputs names them where the rows have three columns and no names."""
    with pytest.raises(InvalidRequest, match="age, job"):
        parse({"data": {"ndarray": [[1, 2, 3]]}}, COLUMNS)
    with pytest.raises(InvalidRequest, match="takes 2 inputs"):
        parse({"strData": "x"}, COLUMNS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=300)
@given(
    kind=st.sampled_from(["ndarray", "tensor", "tftensor", "strData", "jsonData", "binData", "other"]),
    value=JSON,
    names=JSON,
    meta=JSON,
    signature=st.sampled_from([None, IRIS, COLUMNS, TEXT]),
)
def test_no_message_is_anybodys_fault_but_the_callers(kind, value, names, meta, signature):
    """Whatever JSON comes parses, or is refused as the caller's mistake."""
    message = {"data": {kind: value, "names": names}} if kind in {"ndarray", "tensor", "tftensor"} else {kind: value}
    with contextlib.suppress(InvalidRequest, TooLarge):
        parse({**message, "meta": meta}, signature)


MULTIPART = (
    b"--b\r\nContent-Disposition: form-data; name=%b\r\nContent-Type: application/octet-stream\r\n\r\n%b\r\n--b--\r\n"
)


@pytest.mark.parametrize(
    ("body", "content_type", "query", "message"),
    [
        (b'{"strData":"a"}', "application/json", "", {"strData": "a"}),
        (b'{"strData":"a"}', "application/x-www-form-urlencoded", "", {"strData": "a"}),
        (b"json=%7B%22strData%22%3A%22a%22%7D", "application/x-www-form-urlencoded", "", {"strData": "a"}),
        (b"", "", "json=%7B%22strData%22%3A%22a%22%7D", {"strData": "a"}),
        (MULTIPART % (b'"json"', b'{"strData":"a"}'), "multipart/form-data; boundary=b", "", {"strData": "a"}),
        (MULTIPART % (b'"strData"', b"a"), "multipart/form-data; boundary=b", "", {"strData": "a"}),
        (MULTIPART % (b'"binData"', b"\xff\x00"), "multipart/form-data; boundary=b", "", {"binData": "/wA="}),
    ],
    ids=["json", "curl -d", "form", "query", "part json", "part strData", "part binData"],
)
def test_messages_come_in_many_bodies(body, content_type, query, message):
    """As JSON, as a form's field, in the query, as a part."""
    assert json.loads(seldon_v1.body_of(body, content_type=content_type, query=query)) == message


@pytest.mark.parametrize("content_type", ["", "multipart/form-data; boundary=b", "multipart/form-data"])
def test_no_message_is_refused(content_type):
    """In the wrapper's words."""
    with pytest.raises(InvalidRequest, match="Can't find JSON in data"):
        seldon_v1.body_of(b"", content_type=content_type)


def test_feedback_says_who_chose_what():
    """Branches are texts, all (-1) is nobody's choice, the request is parsed when it came."""
    body = {
        "request": {"data": {"ndarray": [[1, 2, 3, 4]]}},
        "response": {"meta": {"routing": {"ab": 1, "eg": "best", "all": -1}}, "data": {"ndarray": [1]}},
        "reward": 0.5,
        "truth": {"data": {"ndarray": [1]}},
    }
    feedback = seldon_v1.parse_feedback(json.dumps(body).encode(), model_name="m", signature=IRIS)
    assert (feedback.reward, feedback.routing) == (0.5, {"ab": "1", "eg": "best"})
    assert feedback.request.inputs[0].data.tolist() == [[1, 2, 3, 4]]
    body["truth"] = {"data": {"tensor": {"shape": [1, 1], "values": [2]}}}
    told = seldon_v1.parse_feedback(json.dumps(body).encode(), model_name="m", signature=IRIS)
    assert told.request.parameters == {"truth": [[2]]}
    bare = seldon_v1.parse_feedback(b'{"reward": 1}', model_name="m")
    assert (bare.reward, dict(bare.routing), bare.request) == (1.0, {}, None)


def test_feedback_without_routing_knows_its_request_by_puid():
    """The puid of the answer, or of the request, is the request's id."""
    body = {"reward": 1, "response": {"meta": {"puid": "p7"}}}
    assert seldon_v1.parse_feedback(json.dumps(body).encode(), model_name="m").request.id == "p7"


@pytest.mark.parametrize(
    "body", [{"reward": "x"}, {"reward": 1, "response": 3}, {"response": {"meta": {"routing": 1}}}]
)
def test_feedback_that_is_none_is_refused(body):
    """A reward is a number, a routing an object."""
    with pytest.raises(InvalidRequest):
        seldon_v1.parse_feedback(json.dumps(body).encode(), model_name="m")


def test_errors_have_their_envelope():
    """The caller's are bad data, all others internal, and secrets stay inside."""
    bad = json.loads(seldon_v1.render_error(InvalidRequest("no rows"), 400))
    assert bad == {"status": {"status": 1, "info": "no rows", "code": -1, "reason": "MICROSERVICE_BAD_DATA"}}
    own = json.loads(seldon_v1.render_error(KeyError("secret"), 500))["status"]
    assert (own["reason"], "secret" in own["info"]) == ("MICROSERVICE_INTERNAL_ERROR", False)


def test_what_json_cannot_carry_is_the_models_failure():
    """An element of BYTES that is no text and no JSON fails loudly."""
    with pytest.raises(RuntimeFailed, match="JSON"):
        render(parse({"data": {"ndarray": [1]}}), texts(object(), object()))
