"""decode_args: type hints choose the codecs, inputs meet arguments by name, and what does not fit is said."""

# Hints stand as older code writes them; moments without a zone are what it sends.
# ruff: noqa: UP006, UP007, UP035, UP045, DTZ001

import inspect
from datetime import datetime
from typing import List, Optional, Tuple, Union

import numpy as np
import pandas as pd
import pytest
from mlserver.codecs import decode_args
from mlserver.codecs.errors import CodecNotFound, InputsNotFound, OutputNotFound
from mlserver.errors import MLServerError
from mlserver.model import MLModel
from mlserver.settings import ModelSettings
from mlserver.types import InferenceRequest, RequestInput
from mlserver.utils import get_wrapped_method


def tensor(name, data, datatype="FP32", **parameters):
    return RequestInput(name=name, shape=[len(data)], datatype=datatype, data=list(data), parameters=parameters or None)


async def answer(predict, *inputs):
    class Model(MLModel):
        pass

    Model.predict = decode_args(predict)
    settings = ModelSettings(name="m", implementation=Model, parameters={"version": "v1"})
    return await Model(settings).predict(InferenceRequest(id="7", inputs=list(inputs)))


def flat(response):
    return [(output.name, output.parameters.content_type, output.data.root) for output in response.outputs]


async def test_array_to_array():
    """An array in and out; the answer bears the model's name and version and positions as names."""

    async def predict(self, x: np.ndarray) -> np.ndarray:
        assert x.dtype == np.float32
        return x * 2

    response = await answer(predict, tensor("x", [1, 2]))
    assert (response.model_name, response.model_version, response.id) == ("m", "v1", None)
    assert flat(response) == [("output-0", "np", [2.0, 4.0])]
    assert response.outputs[0].shape == [2, 1]


async def test_kinds_of_values():
    """Text, bytes and moments are decoded and encoded by their hints."""

    async def predict(
        self, t: List[str], b: List[bytes], d: List[Union[str, datetime]]
    ) -> Tuple[List[str], List[bytes], List[Union[str, datetime]]]:
        assert (t, b, d) == (["a"], [b"abc"], [datetime(2020, 1, 1)])
        return t, b, d

    inputs = tensor("t", [b"a"], "BYTES"), tensor("b", ["YWJj"], "BYTES"), tensor("d", ["2020-01-01"], "BYTES")
    assert flat(await answer(predict, *inputs)) == [
        ("output-0", "str", [b"a"]),
        ("output-1", "base64", [b"YWJj"]),
        ("output-2", "datetime", [b"2020-01-01T00:00:00"]),
    ]


async def test_hints_win():
    """The hint chooses the codec, whatever content type the input names."""

    async def predict(self, x: np.ndarray) -> np.ndarray:
        assert isinstance(x, np.ndarray)
        return x

    assert len(flat(await answer(predict, tensor("x", ["a"], "BYTES", content_type="str")))) == 1


async def test_optional():
    """An optional argument may have no input, in either spelling of its hint."""

    async def predict(self, x: np.ndarray, y: Optional[np.ndarray] = None, z: np.ndarray | None = None) -> np.ndarray:
        return x + sum(value for value in (y, z) if value is not None)

    assert flat(await answer(predict, tensor("x", [1])))[0][2] == [1.0]
    assert flat(await answer(predict, tensor("z", [1]), tensor("x", [1])))[0][2] == [2.0]


async def test_new_spelling():
    """list[str] is List[str]."""

    async def predict(self, x: list[str]) -> list[str]:
        return x

    assert flat(await answer(predict, tensor("x", ["a"], "BYTES"))) == [("output-0", "str", [b"a"])]


async def test_frame_takes_the_rest():
    """Inputs that no argument is named for go together to the data frame."""

    async def predict(self, s: List[str], frame: pd.DataFrame) -> pd.DataFrame:
        assert s == ["q"]
        return frame

    inputs = tensor("a", [1]), tensor("s", ["q"], "BYTES"), tensor("b", ["x"], "BYTES", content_type="str")
    response = await answer(predict, *inputs)
    assert [(output.name, output.data.root) for output in response.outputs] == [("a", [1.0]), ("b", [b"x"])]


async def test_frame_by_its_own_name():
    """An input named like the argument of the frame is refused, for it has no codec of its own."""

    async def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return np.zeros(1)

    with pytest.raises(CodecNotFound, match=r"^Codec not found for input field with name 'frame'$"):
        await answer(predict, tensor("frame", [1]))


async def test_unknown_input():
    """An input that no argument takes is refused by name."""

    async def predict(self, x: np.ndarray) -> np.ndarray:
        return x

    with pytest.raises(InputsNotFound, match=r"^Input 'y' was not found. Available inputs are 'x'.$"):
        await answer(predict, tensor("x", [1]), tensor("y", [1]))


async def test_missing_input():
    """An argument without a default and without an input is the caller's fault, by name."""

    async def predict(self, x: np.ndarray, y: np.ndarray, z: Optional[np.ndarray] = None) -> np.ndarray:
        return x

    with pytest.raises(MLServerError, match=r"^Input 'y' is missing. The request has 'x'.$") as caught:
        await answer(predict, tensor("x", [1]))
    assert caught.value.status_code == 400
    assert isinstance(caught.value, TypeError)


def test_unknown_hint():
    """A hint that no codec takes is refused when the function is decorated."""

    async def predict(self, x: int) -> np.ndarray:
        return x

    with pytest.raises(CodecNotFound, match="for input field with name 'x' and type <class 'int'>"):
        decode_args(predict)


def test_unknown_return_hint():
    """So is a return hint."""

    async def predict(self, x: np.ndarray) -> int:
        return 3

    with pytest.raises(CodecNotFound, match="for output field with type <class 'int'>"):
        decode_args(predict)


@pytest.mark.parametrize(
    ("value", "position", "kind"),
    [(["a"], 0, list), ((np.zeros(1), np.zeros(1)), 1, np.ndarray)],
    ids=["kind", "count"],
)
async def test_unexpected_output(value, position, kind):
    """A value that the return hint does not announce is refused by position."""

    async def predict(self, x: np.ndarray) -> np.ndarray:
        return value

    with pytest.raises(OutputNotFound) as caught:
        await answer(predict, tensor("x", [1]))
    assert str(caught.value) == (
        f"Unexpected output value at position '{position}' ({kind}). "
        "Expected outputs are '<class 'numpy.ndarray'>' outputs."
    )


async def test_no_output():
    """None, alone or in a tuple, is no output; fewer outputs than announced are fine."""

    async def nothing(self, x: np.ndarray) -> Optional[np.ndarray]:
        return None

    async def part(self, x: np.ndarray) -> Tuple[Optional[np.ndarray], List[str]]:
        return None, ["a"]

    async def single(self, x: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        return x

    assert (await answer(nothing, tensor("x", [1]))).outputs == []
    assert flat(await answer(part, tensor("x", [1]))) == [("output-1", "str", [b"a"])]
    assert len((await answer(single, tensor("x", [1]))).outputs) == 1


def test_wraps():
    """The decorated function keeps its name and signature, and is a coroutine function."""

    async def predict(self, x: np.ndarray) -> np.ndarray:
        return x

    decorated = decode_args(predict)
    assert inspect.signature(decorated) == inspect.signature(predict)
    assert inspect.iscoroutinefunction(decorated)
    assert get_wrapped_method(decorated) is predict
