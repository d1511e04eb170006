"""Hypothesis strategies for tensors, requests and responses of every datatype: for properties of protocols, codecs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from hypothesis import strategies as st

from headrace.payload import (
    DTYPES,
    EMPTY,
    Array,
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestedOutput,
    Tensor,
)

JSON_DATATYPES: Final = tuple(name for name in DTYPES if name not in {"FP16", "BF16"})
"""Those that have a JSON form."""

names: Final = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
"""Names of models, tensors and parameters: any text that UTF-8 carries."""


def shapes(*, max_dimensions: int = 4, max_side: int = 5) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes, scalars and empty ones among them."""
    return st.lists(st.integers(0, max_side), max_size=max_dimensions).map(tuple)


def elements(datatype: str, *, text: bool = False, infinite: bool = True) -> st.SearchStrategy[Any]:
    """Elements of a datatype, as what `numpy.array` takes.

    Args:
        datatype: Any of `DTYPES`.
        text: BYTES elements are UTF-8 text; False: any bytes.
        infinite: Floats may be infinite.
    """
    dtype = DTYPES[datatype]
    if datatype == "BYTES":
        return names.map(str.encode) | st.just(b"") if text else st.binary(max_size=12)
    if datatype == "BOOL":
        return st.booleans()
    if dtype.kind == "f":
        width: Any = dtype.itemsize * 8
        return st.floats(width=width, allow_infinity=infinite)
    limits = np.iinfo(dtype)
    return st.integers(int(limits.min), int(limits.max))


@st.composite
def arrays(
    draw: st.DrawFn,
    datatype: str,
    *,
    shape: st.SearchStrategy[tuple[int, ...]] | None = None,
    text: bool = False,
    infinite: bool = True,
) -> Array:
    """Arrays in the dtype that carries the datatype; the arguments are those of `elements`."""
    dimensions = draw(shapes() if shape is None else shape)
    size = math.prod(dimensions)
    # A few elements over and over: what is wrong with an array shows in its corners, not in its length.
    some = draw(st.lists(elements(datatype, text=text, infinite=infinite), min_size=1, max_size=8))
    flat: Array = np.empty(size, DTYPES[datatype])
    for index in range(size):
        flat[index] = some[index % len(some)]
    return flat.reshape(dimensions)


parameters: Final[st.SearchStrategy[Parameters]] = st.dictionaries(
    names.filter(lambda name: not name.startswith(("binary_data", "shared_memory", "classification", "content_type"))),
    st.text(st.characters(codec="utf-8"), max_size=8)
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False, allow_infinity=False),
    max_size=3,
).map(lambda found: found or EMPTY)
"""Parameters that mean nothing to any protocol."""


@st.composite
def tensors(
    draw: st.DrawFn, *, datatypes: Sequence[str] = tuple(DTYPES), text: bool = False, infinite: bool = True
) -> Tensor:
    """Tensors with names and parameters."""
    datatype = draw(st.sampled_from(datatypes))
    return Tensor(
        draw(names), datatype, draw(arrays(datatype, text=text, infinite=infinite)), draw(st.just(EMPTY) | parameters)
    )


def _several(datatypes: Sequence[str], *, text: bool, infinite: bool) -> st.SearchStrategy[tuple[Tensor, ...]]:
    one = tensors(datatypes=datatypes, text=text, infinite=infinite)
    return st.lists(one, min_size=1, max_size=3, unique_by=lambda tensor: tensor.name).map(tuple)


@st.composite
def requests(
    draw: st.DrawFn, *, datatypes: Sequence[str] = tuple(DTYPES), text: bool = False, infinite: bool = True
) -> InferenceRequest:
    """Requests with several inputs, and sometimes outputs wanted."""
    wanted = draw(st.lists(st.tuples(names, parameters), max_size=2, unique_by=lambda pair: pair[0]))
    return InferenceRequest(
        model_name=draw(names),
        id=draw(st.just("") | names),
        inputs=draw(_several(datatypes, text=text, infinite=infinite)),
        outputs=tuple(RequestedOutput(name, given) for name, given in wanted),
        parameters=draw(st.just(EMPTY) | parameters),
    )


@st.composite
def responses(
    draw: st.DrawFn, *, datatypes: Sequence[str] = tuple(DTYPES), text: bool = False, infinite: bool = True
) -> InferenceResponse:
    """Responses with several outputs."""
    return InferenceResponse(
        model_name=draw(names),
        model_version=draw(st.just("") | names),
        id=draw(st.just("") | names),
        outputs=draw(_several(datatypes, text=text, infinite=infinite)),
        parameters=draw(st.just(EMPTY) | parameters),
    )
