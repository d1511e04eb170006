"""Content types `bytes`, a list of byte strings, and `blob`, one byte string."""

from __future__ import annotations

from typing import Any

from headrace.codecs.base import Codec
from headrace.codecs.elements import elements_of, refused, single, tensor_of
from headrace.payload import Tensor


class BytesCodec(Codec):
    """A list of byte strings: one an element."""

    content_type = "bytes"

    def decode(self, tensor: Tensor) -> list[bytes]:
        """The elements."""
        return elements_of(tensor, self.content_type)

    def encode(self, name: str, value: Any) -> Tensor:
        """Byte strings as BYTES of shape [n]."""
        if not self.accepts(value) and value != []:
            raise refused(name, value, "a list of byte strings")
        return tensor_of(name, value, self.content_type)

    def accepts(self, value: Any) -> bool:
        """Lists of byte strings, not empty."""
        return isinstance(value, list) and bool(value) and all(isinstance(each, bytes) for each in value)


class BlobCodec(Codec):
    """One byte string: one element."""

    content_type = "blob"

    def decode(self, tensor: Tensor) -> bytes:
        """The one element."""
        blob = single(elements_of(tensor, self.content_type), tensor, self.content_type)
        assert isinstance(blob, bytes)
        return blob

    def encode(self, name: str, value: Any) -> Tensor:
        """The byte string as BYTES of shape [1]."""
        if not isinstance(value, bytes):
            raise refused(name, value, "a byte string")
        return tensor_of(name, [value], self.content_type)

    def accepts(self, value: Any) -> bool:
        """Byte strings."""
        return isinstance(value, bytes)
