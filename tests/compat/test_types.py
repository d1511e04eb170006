"""The types: what pydantic makes of them, and that data backed by an array look like a list to whoever looks."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from mlserver import types
from mlserver.types import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestInput,
    ResponseOutput,
    TensorData,
    _build,
)
from pydantic import PydanticDeprecatedSince20, ValidationError


def tensor(data=(1, 2), datatype="FP32", **parameters):
    return RequestInput(name="x", shape=[len(data)], datatype=datatype, data=list(data), parameters=parameters or None)


def test_exported():
    """Every name that is promised is there."""
    assert all(hasattr(types, name) for name in types.__all__)
    assert len(types.__all__) == 20


def test_dump_leaves_out():
    """A dump holds neither what was not set nor None; the deprecated form holds both."""
    request = InferenceRequest(id=None, inputs=[tensor()])
    expected = {"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}]}
    assert request.model_dump() == expected
    assert InferenceRequest.model_validate(expected) == request
    assert request.model_dump_json() == '{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1,2]}]}'
    with pytest.warns(PydanticDeprecatedSince20):
        assert request.dict()["outputs"] is None


def test_deprecated_forms():
    """The pydantic 1 forms still read and write."""
    with pytest.warns(PydanticDeprecatedSince20):
        request = InferenceRequest.parse_obj({"inputs": []})
    with pytest.warns(PydanticDeprecatedSince20):
        assert request.json() == '{"id":null,"parameters":null,"inputs":[],"outputs":null}'
    assert tensor().data.__root__ == [1, 2]
    assert TensorData(__root__=[1]) == TensorData([1])
    assert TensorData({"a": 1}).root == {"a": 1}


def test_datatype_is_text():
    """A datatype is read from its name or its member, kept as text, and an unknown one is refused."""
    assert tensor(datatype=Datatype.FP32).datatype == "FP32"
    with pytest.raises(ValidationError, match="'BYTES'"):
        tensor(datatype="FOO")


def test_parameters_keep_anything():
    """Parameters of any name are kept, seen as attributes, and dumped."""
    parameters = Parameters(content_type="np", custom={"a": [1]})
    assert parameters.custom == {"a": [1]}
    assert parameters.model_dump() == {"content_type": "np", "custom": {"a": [1]}}
    assert not hasattr(parameters, "other")


def test_unknown_members_are_dropped():
    """A member that a tensor does not have is ignored."""
    made = RequestInput(name="x", shape=[1], datatype="FP32", data=[1], other=3)
    assert "other" not in made.model_dump()


def test_tensor_data_is_a_sequence():
    """Data can be counted, walked and indexed, and are equal by what they hold."""
    data = TensorData([[1, 2], [3, 4]])
    assert (len(data), data[0], list(data), data[-1:]) == (2, [1, 2], [[1, 2], [3, 4]], [[3, 4]])
    assert data == TensorData([[1, 2], [3, 4]])
    assert data != [[1, 2], [3, 4]]
    assert np.asarray(data).shape == (2, 2)


def held(array, **options):
    return TensorData.of_array(array, **options)


VIEWS = {
    "root": lambda data: data.root,
    "list": list,
    "index": lambda data: [data[at] for at in range(len(data))],
    "slice": lambda data: data[0:99],
    "dump": lambda data: data.model_dump(),
    "pickle": lambda data: pickle.loads(pickle.dumps(data)).root,
    "copy": lambda data: copy.copy(data).root,
    "deepcopy": lambda data: copy.deepcopy(data).root,
    "model_copy": lambda data: data.model_copy(deep=True).root,
    "repr": lambda data: eval(repr(data).removeprefix("TensorData(root=")[:-1]),
    "validated": lambda data: TensorData.model_validate(data).root,
    "old name": lambda data: data.__root__,
}


@pytest.mark.parametrize("view", VIEWS)
def test_arrays_look_like_lists(view):
    """Whatever way data backed by an array are looked at, a flat list of plain values is seen."""
    seen = VIEWS[view](held(np.array([[1.5, 2.0], [3.0, 4.0]], dtype=np.float32)))
    assert seen == [1.5, 2.0, 3.0, 4.0]
    assert all(type(value) is float for value in seen)


def test_arrays_in_requests():
    """A request of arrays equals, and dumps as, the request of lists."""
    array = np.arange(4, dtype=np.int64).reshape(2, 2)

    def made():
        return _build.request(
            [_build.request_input("x", "INT64", array, parameters=_build.parameters({"content_type": "np", "a": 1}))],
            id="7",
            parameters=_build.parameters({}, {"host": "h"}),
            outputs=[_build.request_output("y")],
        )

    validated = InferenceRequest(
        id="7",
        parameters={"headers": {"host": "h"}},
        inputs=[
            RequestInput(
                name="x",
                shape=[2, 2],
                datatype="INT64",
                data=[0, 1, 2, 3],
                parameters=Parameters(content_type="np", a=1),
            )
        ],
        outputs=[{"name": "y"}],
    )
    assert made() == validated
    assert validated == made()
    assert made().model_dump() == validated.model_dump()
    assert made().model_dump_json() == validated.model_dump_json()
    assert repr(made()) == repr(validated)
    assert pickle.loads(pickle.dumps(made())) == validated
    assert made().model_fields_set == validated.model_fields_set


def test_arrays_survive_validation():
    """Putting an array-backed tensor into a request or response does not list it."""
    request_input = _build.request_input("x", "FP32", np.ones((2, 2), dtype=np.float32))
    assert _build.held(InferenceRequest(inputs=[request_input]).inputs[0].data) is not None
    output = ResponseOutput(name="y", shape=[2], datatype="FP32", data=held(np.ones(2)))
    assert _build.held(InferenceResponse(model_name="m", outputs=[output]).outputs[0].data) is not None


def test_a_changed_list_counts():
    """Once somebody has looked at the list, a change of it is what counts, and the array is forgotten."""
    data = held(np.array([1, 2]))
    assert len(data) == 2
    assert _build.held(data) is not None
    data.root[0] = 9
    assert _build.held(data) is None
    assert list(data) == [9, 2]


def test_nulls():
    """NaN is listed as None, as JSON has it, unless it came over a wire that knows NaN."""
    array = np.array([1.0, np.nan])
    assert held(array).root == [1.0, None]
    assert np.isnan(held(array, nulls=False).root[1])


def test_text():
    """Elements of BYTES are bytes, or text where the wire is JSON; what is not UTF-8 stays bytes."""
    array = np.array([b"a", "é".encode(), b"\xff"], dtype=object)
    assert held(array).root == [b"a", "é".encode(), b"\xff"]
    assert held(array, text=True).root == ["a", "é", b"\xff"]


def test_parameters_are_built():
    """Nothing gives no parameters; headers replace those there; nobody may speak for the codecs."""
    assert _build.parameters({}) is None
    assert _build.parameters({"headers": {"a": "b"}}, {"c": "d"}).headers == {"c": "d"}
    assert _build.parameters({"_decoded_payload": [1], "k": 2}).model_dump() == {"k": 2}


@given(arrays.arrays(st.sampled_from([np.float32, np.int16, np.bool_]), arrays.array_shapes(max_dims=3, max_side=4)))
def test_listing_keeps_elements(array):
    """Listing an array and reading the list gives its elements in order."""
    back = [np.nan if value is None else value for value in held(array).root]
    np.testing.assert_array_equal(np.array(back, dtype=array.dtype).reshape(array.shape), array)


def test_index_is_a_sequence():
    """The repository index can be counted, walked and indexed."""
    item = types.RepositoryIndexResponseItem(name="a", state=types.State.READY, reason="")
    index = types.RepositoryIndexResponse([item])
    assert (len(index), index[0], list(index)) == (1, item, [item])
    assert index.model_dump()[0]["state"] == "READY"
