"""The role of a codec: a tensor to the value a model takes, and back. The engine calls it around predict."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

from headrace.payload import Tensor


class Codec(abc.ABC):
    """Turns one tensor into one value, for one content type. Stateless; `decode(encode(name, value))` is `value`."""

    content_type: ClassVar[str]

    @abc.abstractmethod
    def decode(self, tensor: Tensor) -> Any:
        """The value. Raises InvalidRequest when the tensor's datatype or content does not fit."""

    @abc.abstractmethod
    def encode(self, name: str, value: Any) -> Tensor:
        """The tensor. Raises InvalidRequest when the value is not one this codec carries."""

    @abc.abstractmethod
    def accepts(self, value: Any) -> bool:
        """Whether `encode` would take this value; decides which codec carries an output nobody named one for."""


class RequestCodec(abc.ABC):
    """Turns all tensors of a request into one value (a DataFrame), and back."""

    content_type: ClassVar[str]

    @abc.abstractmethod
    def decode(self, tensors: tuple[Tensor, ...]) -> Any:
        """The value. Raises InvalidRequest when the tensors do not fit together."""

    @abc.abstractmethod
    def encode(self, value: Any) -> tuple[Tensor, ...]:
        """The tensors, in the value's own order."""

    @abc.abstractmethod
    def accepts(self, value: Any) -> bool:
        """Whether `encode` would take this value."""
