"""Content type `json`: JSON values, each as text in its own element, so that rows stay rows."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from headrace.codecs.base import Codec
from headrace.codecs.elements import elements_of, tensor_of
from headrace.errors import InvalidRequest
from headrace.payload import Tensor


class JsonCodec(Codec):
    """One element is its value; several are the list of their values. Encoding takes a list for rows, so that the batch
    of one row looks like a row of any batch; that list of one decodes to its element.
    """

    content_type = "json"

    def decode(self, tensor: Tensor) -> Any:
        """The value of the one element, or the list of all values."""
        values = []
        for index, each in enumerate(elements_of(tensor, self.content_type)):
            try:
                values.append(msgspec.json.decode(each))
            except (ValueError, RecursionError) as exc:
                raise InvalidRequest(f"input '{tensor.name}': element {index} is not JSON: {exc}") from None
        return values[0] if len(values) == 1 else values

    def encode(self, name: str, value: Any) -> Tensor:
        """A list as BYTES of shape [n], anything else as [1]. Numpy arrays inside become lists; NaN becomes null."""
        rows = value if isinstance(value, list) else [value]
        try:
            elements = [orjson.dumps(each, option=orjson.OPT_SERIALIZE_NUMPY) for each in rows]
        except TypeError as exc:
            raise InvalidRequest(f"'{name}': not a JSON value: {exc}") from exc
        return tensor_of(name, elements, self.content_type)

    def accepts(self, value: Any) -> bool:
        """Objects, and lists with an object among their elements."""
        return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(each, dict) for each in value))
