"""References between steps, parsed: who gives, which side of it, which tensor. `check`, `compile`, `external` call it.

The grammar stands in `spec`. Pure.
"""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

from headrace.errors import InvalidRequest

Side = Literal["inputs", "outputs", "branches"]

_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """Where tensors come from, within one pipeline."""

    step: str
    """Empty: the pipeline itself."""
    side: Side
    branch: str = ""
    """Of a router, when `side` is `branches`."""
    tensor: str = ""
    """Empty: all."""

    @property
    def port(self) -> tuple[str, str, str]:
        """The place where messages come from: references with equal ports share one stream."""
        return (self.step, self.side, self.branch)


class External(msgspec.Struct, frozen=True, kw_only=True):
    """Where tensors come from in another pipeline."""

    pipeline: str
    step: str
    """Empty: the pipeline itself."""
    side: Side
    tensor: str = ""
    """Empty: all."""

    @property
    def tap(self) -> str:
        """The reference as that pipeline's taps know it."""
        return f"{self.step}.{self.side}" if self.step else self.side


def valid_name(name: str) -> bool:
    """Whether a pipeline or a step may be called so: letters, digits, `-` and `_`, no dots."""
    return _NAME.fullmatch(name) is not None


def parse(text: str, *, pipeline: str) -> Reference:
    """A reference within a pipeline. Whether its step exists is not looked at.

    Args:
        text: As written in `inputs`, `triggers`, `tensorMap` or `output.steps`.
        pipeline: The pipeline's own name.

    Raises:
        InvalidRequest: it does not follow the grammar; the text says how.
    """
    step, *rest = text.split(".")
    if not _NAME.fullmatch(step):
        raise InvalidRequest(f"expected STEP, STEP.outputs.TENSOR or the like, found {text!r}")
    own = step == pipeline
    if not rest:
        return Reference(step="", side="inputs") if own else Reference(step=step, side="outputs")
    side, *names = rest
    if side not in {"inputs", "outputs", "branches"}:
        raise InvalidRequest(f"after '{step}.' expected inputs, outputs or branches, found '{side}'")
    if own:
        if side != "inputs":
            raise InvalidRequest(f"of the pipeline itself only '{pipeline}.inputs' can be taken, not '.{side}'")
        return Reference(step="", side="inputs", tensor=_tensor(text, names))
    if side == "branches":
        if not names or not _NAME.fullmatch(names[0]):
            raise InvalidRequest(f"after '{step}.branches.' expected a branch, found '{'.'.join(names)}'")
        return Reference(step=step, side="branches", branch=names[0], tensor=_tensor(text, names[1:]))
    return Reference(step=step, side="inputs" if side == "inputs" else "outputs", tensor=_tensor(text, names))


def parse_external(text: str) -> External:
    """A reference to another pipeline: `OTHER.outputs.TENSOR`, `OTHER.step.STEP.inputs` and their like.

    Raises:
        InvalidRequest: it does not follow the grammar; the text says how.
    """
    pipeline, *rest = text.split(".")
    step = ""
    if rest[:1] == ["step"]:
        step, rest = (rest[1] if len(rest) > 1 else ""), rest[2:]
        if not _NAME.fullmatch(step):
            raise InvalidRequest(f"after '{pipeline}.step.' expected a step, found '{step}'")
    if not _NAME.fullmatch(pipeline) or not rest or rest[0] not in {"inputs", "outputs"}:
        raise InvalidRequest(
            f"expected PIPELINE.inputs, PIPELINE.outputs, PIPELINE.step.STEP.inputs or PIPELINE.step.STEP.outputs, "
            f"each with .TENSOR or without, found {text!r}"
        )
    side: Side = "inputs" if rest[0] == "inputs" else "outputs"
    return External(pipeline=pipeline, step=step, side=side, tensor=_tensor(text, rest[1:]))


def _tensor(text: str, names: list[str]) -> str:
    """The rest is the tensor's name, whose dots are its own."""
    tensor = ".".join(names)
    if names and not tensor:
        raise InvalidRequest(f"expected the name of a tensor at the end of {text!r}, found nothing")
    return tensor
