"""Content types `str`, a list of texts, and `text`, one text. UTF-8 in BYTES tensors."""

from __future__ import annotations

from typing import Any

from headrace.codecs.base import Codec
from headrace.codecs.elements import refused, single, tensor_of, texts_of
from headrace.payload import Tensor


class StringCodec(Codec):
    """A list of texts: one an element."""

    content_type = "str"

    def decode(self, tensor: Tensor) -> list[str]:
        """The elements as text."""
        return texts_of(tensor, self.content_type)

    def encode(self, name: str, value: Any) -> Tensor:
        """Texts as BYTES of shape [n]."""
        if not self.accepts(value) and value != []:
            raise refused(name, value, "a list of texts")
        return tensor_of(name, [each.encode() for each in value], self.content_type)

    def accepts(self, value: Any) -> bool:
        """Lists of texts, not empty."""
        return isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value)


class TextCodec(Codec):
    """One text: one element."""

    content_type = "text"

    def decode(self, tensor: Tensor) -> str:
        """The one element as text."""
        text = single(texts_of(tensor, self.content_type), tensor, self.content_type)
        assert isinstance(text, str)
        return text

    def encode(self, name: str, value: Any) -> Tensor:
        """The text as BYTES of shape [1]."""
        if not isinstance(value, str):
            raise refused(name, value, "a text")
        return tensor_of(name, [value.encode()], self.content_type)

    def accepts(self, value: Any) -> bool:
        """Texts."""
        return isinstance(value, str)
