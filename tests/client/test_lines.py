"""Lines to requests and back: merging and splitting are inverse, in text as it was written, and with bytes."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.client import lines, tensors
from headrace.errors import InvalidRequest, RuntimeFailed

NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**64)
TEXTS = st.text(max_size=6)


def nest(flat, shape):
    if len(shape) == 1:
        return flat
    step = len(flat) // shape[0]
    return [nest(flat[at * step : (at + 1) * step], shape[1:]) for at in range(shape[0])]


@st.composite
def batches(draw):
    """Requests that differ in rows, values, ids and whitespace only."""
    trailing = draw(st.lists(st.integers(1, 3), max_size=2))
    nested = draw(st.booleans())
    values = draw(st.sampled_from([("FP64", NUMBERS), ("BYTES", TEXTS)]))
    names = draw(st.lists(TEXTS, min_size=1, max_size=3, unique=True))
    made = []
    for _ in range(draw(st.integers(1, 5))):
        shape = [draw(st.integers(1, 3)), *trailing]
        size = int(np.prod(shape))
        inputs = []
        for name in names:
            flat = draw(st.lists(values[1], min_size=size, max_size=size))
            data = nest(flat, shape) if nested else flat
            inputs.append({"name": name, "shape": shape, "datatype": values[0], "data": data})
        made.append({"inputs": inputs, **({"id": draw(TEXTS)} if draw(st.booleans()) else {})})
    return made


def parsed(requests, indent=None):
    return [
        lines.parse(index, json.dumps(request, indent=indent).encode(), mergeable=True)
        for index, request in enumerate(requests)
    ]


def echo(body):
    """A model that answers its inputs."""
    request = json.loads(body)
    return json.dumps({"model_name": "m", "id": request["id"], "outputs": request["inputs"]}).encode()


@given(batches(), st.sampled_from([None, 1]))
def test_split_undoes_merge(requests, indent):
    """Through a model that works row by row, lines merged and split get what each gets alone."""
    made = parsed(requests, indent)
    assert len({line.key for line in made}) == 1
    assert made[0].key is not None
    together = lines.split(echo(lines.merge(made, "merged")), made)
    assert together is not None
    alone = [echo(lines.render(line)) for line in made]
    for one, other, line in zip(together, alone, made, strict=True):
        place = {"inference_id": "i"}
        assert json.loads(lines.placed(one, line, **place)) == json.loads(lines.placed(other, line, **place))


@given(batches())
def test_answers_are_one_line(requests):
    """An answer over several lines becomes one line of the output with the same content."""
    (line, *_) = parsed(requests)
    body = json.dumps(json.loads(echo(lines.render(line))), indent=2).encode()
    text = lines.placed(body, line, inference_id="i")
    assert b"\n" not in text
    assert json.loads(text)["outputs"] == json.loads(body)["outputs"]


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ([2, 2], "[1, 2, 3]"),
        ([2, 2], "[[1, 2], [3]]"),
        ([2], "[[1], [2], [3]]"),
        ([3, 1], "[[], [1, 2]]"),
        ([1], "[]"),
        ([0, 2], "[]"),
        ([], "[1]"),
        ([1], "7"),
        ([-1], "[1]"),
        ([2], '["a,b"]'),
        ([1, 0], "[]"),
    ],
)
def test_data_that_does_not_fit_is_not_merged(shape, data):
    """A line whose data is not of its shape is merged with none, so that its rows cannot become another's."""
    text = f'{{"inputs": [{{"name": "x", "shape": {shape}, "datatype": "FP64", "data": {data}}}]}}'
    assert lines.parse(0, text.encode(), mergeable=True).key is None


def one(**changes):
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}
    return {"inputs": [tensor | changes]}


@pytest.mark.parametrize(
    "other",
    [
        one(name="y"),
        one(datatype="FP32"),
        one(shape=[2, 1]),
        one(parameters={"content_type": "np"}),
        one(data=[[1, 2]]),
        one() | {"parameters": {"a": 1}},
        one() | {"outputs": [{"name": "y"}]},
        {"inputs": one()["inputs"] * 2},
    ],
    ids=["name", "datatype", "shape", "tensor parameters", "nesting", "parameters", "outputs", "number of inputs"],
)
def test_what_keeps_lines_apart(other):
    """Lines that differ in more than rows, values and id have different keys; others have one."""
    first, second, third = parsed([one(), one(shape=[2, 2], data=[5, 6, 7, 8]) | {"id": "x"}, other])
    assert first.key == second.key != third.key
    assert second.rows == 2


def test_inputs_of_different_rows():
    """A line whose inputs have different numbers of rows is merged with none."""
    request = {"inputs": [one()["inputs"][0], {"name": "y", "shape": [3], "datatype": "FP64", "data": [1, 2, 3]}]}
    assert parsed([request])[0].key is None


def test_numbers_stay_as_written():
    """Merging and splitting change no digit of a number."""
    texts = ["1.10", "1e400", "0.1000000000000000055", "-0.0", "123456789012345678901234567890"]
    made = [
        lines.parse(
            at,
            f'{{"inputs":[{{"name":"x","shape":[1],"datatype":"FP64","data":[ {text} ]}}]}}'.encode(),
            mergeable=True,
        )
        for at, text in enumerate(texts)
    ]
    merged = lines.merge(made, "i")
    assert all(text.encode() in merged for text in texts)
    answer = b'{"outputs":[{"name":"x","shape":[5],"datatype":"FP64","data":[' + ",".join(texts).encode() + b"]}]}"
    parts = lines.split(answer, made)
    assert parts is not None
    assert all(f'"data":[{text}]'.encode() in part for text, part in zip(texts, parts, strict=True))


@pytest.mark.parametrize(
    "output",
    [
        {"shape": [3], "data": [1, 2, 3]},
        {"shape": [2], "data": [1, 2, 3]},
        {"shape": [], "data": [1]},
        {"shape": [2, 2], "data": [[1, 2], [3]]},
    ],
)
def test_answers_that_cannot_be_split(output):
    """An answer whose rows are not those asked, or not of its shape, is split for nobody."""
    made = parsed([one(), one()])
    assert lines.split(json.dumps({"outputs": [{"name": "y", "datatype": "FP64", **output}]}).encode(), made) is None


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b'{"outputs": [{"name": "y"}]}', b'{"outputs": [1]}'])
def test_answers_that_are_none(body):
    """An answer that is no V2 response is an error of the server's."""
    with pytest.raises(RuntimeFailed, match="not a V2 inference response"):
        lines.split(body, parsed([one(), one()]))


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"7", b'{"a": 1}', b'{"inputs": {}}', b'{"inputs": [], "id": 7}', b'{"inputs": ["\xff"]}'],
)
def test_lines_that_are_no_requests(text):
    """A text that is no request is refused with its line's number."""
    with pytest.raises(InvalidRequest, match="line 7"):
        lines.parse(7, text)


@pytest.mark.parametrize(
    ("datatype", "data"),
    [("FP32", [1.5, None]), ("INT8", [1, -2]), ("BOOL", [True, False]), ("BYTES", ["é", ""]), ("FP16", [0.5, 2])],
)
def test_binary(datatype, data):
    """A request in bytes, answered in bytes, comes back in JSON with the values that were sent."""
    tensor = {"name": "x", "shape": [2, 1], "datatype": datatype, "data": [[each] for each in data]}
    body, length = lines.to_binary(json.dumps({"id": "i", "inputs": [tensor], "outputs": [{"name": "x"}]}).encode())
    head = json.loads(body[:length])
    assert "data" not in head["inputs"][0]
    assert head["parameters"]["binary_data_output"] is True
    answer = {"model_name": "m", "id": "i", "outputs": head["inputs"]}
    text = json.dumps(answer).encode()
    (output,) = json.loads(lines.from_binary(text + body[length:], len(text)))["outputs"]
    assert output == {"name": "x", "shape": [2, 1], "datatype": datatype, "data": data}


@pytest.mark.parametrize(
    "changes",
    [
        {"datatype": "FP99"},
        {"data": [1]},
        {"data": ["a", "b"]},
        {"datatype": "INT8", "data": [1, 300]},
        {"datatype": "BYTES"},
        {"datatype": "BF16"},
    ],
)
def test_binary_that_does_not_fit(changes):
    """Data that does not fit its datatype and shape is refused, not sent."""
    with pytest.raises(InvalidRequest, match="cannot send the tensors as bytes"):
        lines.to_binary(json.dumps(one(**changes)).encode())


def test_bytes_that_are_no_text():
    """Bytes that JSON cannot hold are an error that names the output."""
    raw = b"\x01\x00\x00\x00\xff"
    head = {"outputs": [{"name": "y", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}]}
    text = json.dumps(head).encode()
    with pytest.raises(RuntimeFailed, match="output 'y' holds bytes that are not UTF-8"):
        lines.from_binary(text + raw, len(text))


def test_binary_is_the_tensors_own():
    """What is sent in bytes is what `tensors.parse` reads."""
    body, length = lines.to_binary(json.dumps(one() | {"id": ""}).encode())
    head = json.loads(body[:length])
    text = json.dumps({"outputs": head["inputs"]}).encode()
    assert tensors.parse(bytearray(text + body[length:]), len(text)).outputs[0].data.tolist() == [[1.0, 2.0]]
