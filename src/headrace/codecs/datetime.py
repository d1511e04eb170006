"""Content type `datetime`: a list of dates with times, as ISO 8601 text."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import numpy as np

from headrace.codecs.base import Codec
from headrace.codecs.elements import refused, tensor_of, texts_of
from headrace.errors import InvalidRequest
from headrace.payload import Tensor


class DatetimeCodec(Codec):
    """A list of `datetime`: one an element. Zones are kept; microseconds are the finest."""

    content_type = "datetime"

    def decode(self, tensor: Tensor) -> list[datetime | None]:
        """The elements as dates with times; None, which is no value, stays."""
        missing = [each is None for each in tensor.data.ravel().tolist()]
        if any(missing):
            tensor = msgspec.structs.replace(tensor, data=np.where(missing, b"", tensor.data.ravel()))
        dates: list[datetime | None] = []
        for index, text in enumerate(texts_of(tensor, self.content_type)):
            try:
                dates.append(None if missing[index] else datetime.fromisoformat(text))
            except ValueError:
                raise InvalidRequest(
                    f"input '{tensor.name}': element {index} is not an ISO 8601 date: {text[:40]!r}"
                ) from None
        return dates

    def encode(self, name: str, value: Any) -> Tensor:
        """Dates as BYTES of shape [n]; numpy's `datetime64` too."""
        if isinstance(value, np.ndarray) and value.dtype.kind == "M":
            if np.isnat(value).any():
                raise InvalidRequest(f"'{name}': NaT has no ISO 8601 form")
            value = value.astype("datetime64[us]").ravel().tolist()
        if not isinstance(value, list) or not all(isinstance(each, datetime) for each in value):
            raise refused(name, value, "a list of datetime")
        return tensor_of(name, [each.isoformat().encode() for each in value], self.content_type)

    def accepts(self, value: Any) -> bool:
        """Lists of `datetime`, not empty, and arrays of `datetime64`."""
        if isinstance(value, np.ndarray):
            return bool(value.dtype.kind == "M")
        return isinstance(value, list) and bool(value) and all(isinstance(each, datetime) for each in value)
