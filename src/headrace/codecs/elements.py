"""The elements of BYTES tensors, which most codecs are about. The codecs of this room call it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headrace.errors import InvalidRequest
from headrace.payload import Array, Tensor


def elements_of(tensor: Tensor, content_type: str) -> list[bytes]:
    """The elements of a BYTES tensor, row-major; text becomes UTF-8.

    Raises:
        InvalidRequest: the tensor is of another datatype, or an element is neither bytes nor text.
    """
    if tensor.datatype != "BYTES":
        raise InvalidRequest(
            f"input '{tensor.name}': content type '{content_type}' needs datatype BYTES, got {tensor.datatype}"
        )
    elements = tensor.data.ravel().tolist()
    for index, each in enumerate(elements):
        if type(each) is str:
            elements[index] = each.encode()
        elif not isinstance(each, bytes):
            raise InvalidRequest(
                f"input '{tensor.name}': element {index} must be bytes or text, got {type(each).__name__}"
            )
    return elements


def texts_of(tensor: Tensor, content_type: str) -> list[str]:
    """The elements of a BYTES tensor as text.

    Raises:
        InvalidRequest: as `elements_of`, or an element is not UTF-8.
    """
    texts = []
    for index, each in enumerate(elements_of(tensor, content_type)):
        try:
            texts.append(each.decode())
        except UnicodeDecodeError:
            raise InvalidRequest(
                f"input '{tensor.name}': element {index} is not UTF-8 text, as content type '{content_type}' needs"
            ) from None
    return texts


def single(elements: Sequence[bytes] | Sequence[str], tensor: Tensor, content_type: str) -> bytes | str:
    """The one element.

    Raises:
        InvalidRequest: there are none or several.
    """
    if len(elements) != 1:
        raise InvalidRequest(
            f"input '{tensor.name}': content type '{content_type}' needs one element, got shape {list(tensor.shape)}"
        )
    return elements[0]


def tensor_of(name: str, elements: Sequence[bytes], content_type: str) -> Tensor:
    """A BYTES tensor of one dimension that says its content type."""
    data: Array = np.empty(len(elements), np.object_)
    data[:] = list(elements)
    return Tensor(name, "BYTES", data, {"content_type": content_type})


def refused(name: str, value: object, expected: str) -> InvalidRequest:
    """The error for a value that a codec does not carry."""
    return InvalidRequest(f"'{name}': expected {expected}, got {type(value).__name__}")
