"""Content type `base64`: a list of byte strings that travel as base64 text, for wires of text."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from headrace.codecs.base import Codec
from headrace.codecs.elements import elements_of, refused, tensor_of
from headrace.errors import InvalidRequest
from headrace.payload import Tensor


class Base64Codec(Codec):
    """A list of byte strings: one an element, in the alphabet of RFC 4648, section 4. What is not base64 is refused."""

    content_type = "base64"

    def decode(self, tensor: Tensor) -> list[bytes]:
        """The elements, decoded."""
        decoded = []
        for index, each in enumerate(elements_of(tensor, self.content_type)):
            try:
                decoded.append(base64.b64decode(each, validate=True))
            except binascii.Error as exc:
                raise InvalidRequest(f"input '{tensor.name}': element {index} is not base64: {exc}") from None
        return decoded

    def encode(self, name: str, value: Any) -> Tensor:
        """Byte strings as BYTES of shape [n], in base64."""
        if not isinstance(value, list) or not all(isinstance(each, bytes) for each in value):
            raise refused(name, value, "a list of byte strings")
        return tensor_of(name, [base64.b64encode(each) for each in value], self.content_type)

    def accepts(self, value: Any) -> bool:
        """Nothing: byte strings travel as they are (`bytes`) unless somebody asks for base64."""
        return False
