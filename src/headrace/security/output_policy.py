"""How much of an answer a caller gets: fewer decimals, the largest probabilities only, or the label alone.

The fewer bits an answer has, the more queries it takes to copy the model (Tramer et al., Stealing Machine Learning
Models via Prediction APIs, 2016, section 7). What is left out is left out in the same way for the same request, so that
asking again gains nothing. It does not stop an attack that needs labels alone; it makes it dearer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from headrace.payload import Array, Infer, InferenceRequest, InferenceResponse, Tensor, datatype_of
from headrace.security.callers import DEFAULT_ROLE
from headrace.trust.spec import OutputPolicy

LABEL: str = "label"
"""The output that answers a caller who gets labels only, of a model that answered none."""


def limited(
    infer: Infer,
    policies: Mapping[str, OutputPolicy],
    *,
    role: Callable[[InferenceRequest], str],
    probabilities: str = "",
    classes: Sequence[object] = (),
) -> Infer:
    """The same `Infer`, answering no more than the caller's role may have.

    Args:
        infer: The model.
        policies: By role; `default` is for roles that are not there.
        role: Of who asks. A role that suspicion has lowered is somebody else's to say.
        probabilities: The output that holds them; empty: every output of fractions with one row per row and two or more
            columns.
        classes: In the order of the probabilities, to name a label.
    """
    other = policies.get(DEFAULT_ROLE)

    async def answer(request: InferenceRequest) -> InferenceResponse:
        policy = policies.get(role(request), other)
        response = await infer(request)
        return response if policy is None else apply(policy, response, probabilities=probabilities, classes=classes)

    return answer


def apply(
    policy: OutputPolicy, response: InferenceResponse, *, probabilities: str = "", classes: Sequence[object] = ()
) -> InferenceResponse:
    """What is left of an answer."""
    outputs: list[Tensor] = []
    hidden: Array | None = None
    for tensor in response.outputs:
        is_probabilities = tensor.name == probabilities if probabilities else _looks_like_probabilities(tensor)
        if is_probabilities and policy.label_only:
            hidden = tensor.data
            continue
        data = tensor.data
        if is_probabilities and policy.top_k is not None:
            data = _largest(data, policy.top_k)
        if policy.decimals is not None and data.dtype.kind == "f":
            data = np.round(data, policy.decimals)
        outputs.append(tensor if data is tensor.data else msgspec.structs.replace(tensor, data=data))
    if hidden is not None and not outputs:
        outputs.append(_labels(hidden, classes))
    return msgspec.structs.replace(response, outputs=tuple(outputs))


def _looks_like_probabilities(tensor: Tensor) -> bool:
    data = tensor.data
    return data.dtype.kind == "f" and data.ndim == 2 and data.shape[1] > 1


def _largest(data: Array, count: int) -> Array:
    """The `count` largest of each row, and 0 for the others; of equal ones, the first."""
    if data.ndim != 2 or data.shape[1] <= count:
        return data
    kept = np.argsort(-data, axis=1, kind="stable")[:, :count]
    result = np.zeros_like(data)
    np.put_along_axis(result, kept, np.take_along_axis(data, kept, axis=1), axis=1)
    return result


def _labels(data: Array, classes: Sequence[object]) -> Tensor:
    chosen = data.argmax(axis=1) if data.ndim == 2 and data.shape[1] > 1 else (data.reshape(len(data)) > 0.5)
    chosen = chosen.astype(np.int64)
    if classes:
        named = np.empty(len(chosen), np.object_)
        named[:] = [str(classes[each]).encode() for each in chosen]
        return Tensor(LABEL, "BYTES", named)
    return Tensor(LABEL, datatype_of(chosen), chosen)
