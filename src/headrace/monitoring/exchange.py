"""A request and its answer, as the watcher's process hands them to the payload log and to retraining."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from headrace.payload import EMPTY, Array, Parameters, Tensor
from headrace.trust.spec import Schema

_NONE: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({})


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """One request and what was answered."""

    id: str
    """The request's: the caller's, or the one that the tap gave it."""
    model: str
    version: str = ""
    time: float = 0.0
    """When it came, in seconds since the epoch."""
    seconds: float = 0.0
    """What the answer took."""
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    """Empty: it failed. Of a stream, the parts that were seen."""
    parameters: Parameters = EMPTY
    headers: Mapping[str, str] = EMPTY
    caller: str = ""
    """Who asked; empty: not known."""
    protocol: str = ""
    error: str = ""
    """Of a request that failed: the error's class."""
    quarantined: bool = False
    """Whether a detector flagged a row of it."""
    is_partial: bool = False
    """Whether there was more than stands here: parts of a stream that were not seen."""
    columns: Mapping[str, tuple[str, ...]] = _NONE
    """Names of the columns of input tensors `[n, f]`, by the tensor's name; see `columns_of`."""


def columns_of(schema: Schema) -> dict[str, tuple[str, ...]]:
    """The columns of each input tensor of a model with a trust folder; of its only one, by the name ``""``."""
    names = schema.features.names
    return {each.name: tuple(names[at] for at in each.columns) for each in schema.inputs if len(each.columns) > 1}


def column_names(exchange: Exchange, tensor: Tensor) -> tuple[str, ...]:
    """The names of a tensor's columns, where it is `[n, f]` and somebody knows them: the schema, or the request."""
    if tensor.data.ndim != 2:
        return ()
    known: Sequence[str] = exchange.columns.get(tensor.name, ())
    if not known and len(exchange.inputs) == 1:
        known = exchange.columns.get("", ())
    if not known and isinstance(tensor.parameters.get("names"), str):
        try:
            known = [str(name) for name in json.loads(tensor.parameters["names"])]
        except (ValueError, TypeError):
            known = ()
    return tuple(known) if len(known) == tensor.data.shape[1] and len(set(known)) == len(known) else ()


def is_sampled(request_id: str, share: float) -> bool:
    """Whether a request belongs to the share that is logged, from 0 to 1: the same for its answer and its labels,
    in every process, today and tomorrow.
    """
    if share >= 1:
        return True
    digest = hashlib.blake2b(request_id.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2.0**64


def size_of(tensors: Sequence[Tensor]) -> int:
    """Bytes of the values."""
    return sum(_size(tensor.data) for tensor in tensors)


def _size(data: Array) -> int:
    if data.dtype != object:
        return data.nbytes
    return sum(len(each) if isinstance(each, bytes | str) else 16 for each in data.ravel().tolist())
