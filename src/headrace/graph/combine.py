"""Combiners: one answer of the answers of several steps. `run` calls one for every request that reaches such a step.

Tensors are matched by name; where each input brings exactly one, these are matched whatever their names, and the answer
has the name that the first input gave. All inputs must bring the same names and shapes. What came is combined: an input
that was not answered (a soft dependency, an `outer` join) takes no part.

| type | answer |
|---|---|
| `mean`, `weightedMean` | element by element; floats stay what they are (mixed: the widest), the rest is FP64 |
| `median` | element by element, the mean of the middle two of an even number; datatypes as of `mean` |
| `vote` | element by element the value that most weight stands behind; a tie goes to the earlier input |
| `krum` | that of the one input which is nearest to its nearest others |
| `multi-krum` | the mean of the inputs that Krum would choose first |
| `trimmed-mean` | element by element the mean without the `f` largest and the `f` smallest |
| `concatenate` | columns side by side; `parameters: {axis: 0}` one below the other |
| `custom` | what a function or class of one's own makes of it |

`vote` counts equal values: integers, BOOL, BYTES, and floats that are whole numbers, as classifiers answer their
labels. Probabilities have no majority: use `mean` or `weightedMean` (a soft vote). See L. I. Kuncheva,
Combining Pattern Classifiers, 2nd ed., Wiley 2014, sections 4.2 and 5.2.

`krum`, `multi-krum`, `trimmed-mean`, and `median` and `vote` with `parameters: {f: 1}`, withstand `f` inputs that
answer anything (`graph.robust`; of the first three `f` is 1 unless told otherwise): also values that are not finite.
Fewer inputs than that takes fail the step. With `parameters: {dissent: true}` there is one more tensor, `dissent`
(BOOL, one element an input in the order of `inputs`): which ones were far from the answer, or, of a vote, voted for
anything else. `multi-krum` takes `m`, of how many the mean is.

`concatenate` joins on dimension 1 unless told otherwise; a tensor of one dimension counts as one column a row.

`custom` (`reference: module:name`, `compat.code`) is a function `combine(inputs, **parameters)` or a class with a
method `combine(self, inputs)`, plain or async: `inputs` is `{reference: {name: array}}`, text as bytes, and an array or
a mapping of name to array comes back. A class of Seldon Core v1, with `aggregate(features_list, feature_names_list)`,
is taken as it is.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from headrace.compat import seldon
from headrace.compat.code import Call, Codes, Own, load
from headrace.errors import HeadraceError, InvalidRequest, LoadFailed, RuntimeFailed
from headrace.graph import robust
from headrace.graph.spec import Combine
from headrace.payload import DTYPES, Array, Tensor, datatype_of

Combiner = Callable[[Mapping[str, tuple[Tensor, ...]]], tuple[Tensor, ...] | Awaitable[tuple[Tensor, ...]]]
"""From the tensors of each input, by its reference as it stands in `inputs`, to those of the answer. Raises
RuntimeFailed where they do not go together; the text names the inputs."""

_FLOATS: Final = frozenset({"FP16", "FP32", "FP64"})
_WHOLE: Final = 1e-9
"""Weights that differ by less, relative to their sum, are equal: decimal fractions do not add up exactly."""

_Groups = Sequence[tuple[str, Sequence[tuple[str, Tensor]]]]
"""Tensors that belong together: the name of the answer, and each input's reference and tensor."""


def combiner(
    spec: Combine, *, base: str = "", code: Codes | None = None, allowed: tuple[str, ...] | None = None
) -> Combiner:
    """The combiner that a step says.

    Args:
        spec: What the step says.
        base: The folder of the manifest, for `custom`.
        code: Gives the modules of a folder (`runtimes.own_code.OwnCode`), for `custom`.
        allowed: As of `code.load`.

    Raises:
        InvalidRequest: a weight below zero, or an axis, `f` or another parameter that is none.
        LoadFailed: of `custom`, as of `code.load`.
    """
    weights = _checked_weights(spec.weights)
    if spec.type in {"median", "vote"} and spec.parameters:
        return _Robust(spec, weights)
    match spec.type:
        case "krum" | "multi-krum" | "trimmed-mean":
            return _Robust(spec, weights)
        case "mean":
            return lambda inputs: tuple(_mean(name, group, {}) for name, group in _groups(inputs))
        case "weightedMean":
            return lambda inputs: tuple(_mean(name, group, weights) for name, group in _groups(inputs))
        case "median":
            return lambda inputs: tuple(_median(name, group) for name, group in _groups(inputs))
        case "vote":
            return lambda inputs: tuple(_vote(name, group, weights) for name, group in _groups(inputs))
        case "concatenate":
            axis = _checked_axis(spec.parameters)
            return lambda inputs: tuple(_concatenate(name, group, axis) for name, group in _groups(inputs))
        case "custom":
            return _Custom(load(spec.reference, base=base, parameters=spec.parameters, code=code, allowed=allowed))


def _checked_weights(weights: Mapping[str, float]) -> Mapping[str, float]:
    for reference, weight in weights.items():
        if not math.isfinite(weight) or weight < 0:
            raise InvalidRequest(f"weight of '{reference}' is {weight}; expected a number of at least 0")
    if weights and not any(weights.values()):
        raise InvalidRequest(f"the weights of {', '.join(weights)} are all 0; expected one above it")
    return weights


def _checked_axis(parameters: Mapping[str, Any]) -> int:
    for key in parameters:
        if key != "axis":
            raise InvalidRequest(f"concatenate takes the parameter 'axis', not {key!r}")
    axis = parameters.get("axis", 1)
    if type(axis) is not int:
        raise InvalidRequest(f"concatenate: axis is {axis!r}; expected a whole number")
    return axis


# -- which belong together --


def _groups(inputs: Mapping[str, tuple[Tensor, ...]]) -> _Groups:
    if not inputs:
        raise RuntimeFailed("nothing came to combine; expected the answer of at least one input")
    references = list(inputs)
    first = inputs[references[0]]
    if all(len(tensors) == 1 for tensors in inputs.values()):
        return [(first[0].name, [(reference, tensors[0]) for reference, tensors in inputs.items()])]
    known = {reference: {tensor.name: tensor for tensor in tensors} for reference, tensors in inputs.items()}
    names = known[references[0]]
    for reference, tensors in known.items():
        if tensors.keys() != names.keys():
            raise RuntimeFailed(
                f"input '{reference}' brings {_listed(tensors)}, but '{references[0]}' brings {_listed(names)}; "
                "expected tensors of the same names (rename them with tensorMap), or one of each"
            )
    return [(name, [(reference, tensors[name]) for reference, tensors in known.items()]) for name in names]


def _listed(names: Mapping[str, Tensor]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "nothing"


def _check_shapes(group: Sequence[tuple[str, Tensor]]) -> None:
    reference, first = group[0]
    shape = first.data.shape
    for other, tensor in group:
        if tensor.data.shape != shape:
            raise RuntimeFailed(
                f"input '{other}' brings tensor '{tensor.name}' of shape {list(tensor.data.shape)}, but '{reference}' "
                f"of {list(shape)}; expected one shape"
            )


def _refuse_text(group: Sequence[tuple[str, Tensor]], what: str) -> None:
    for reference, tensor in group:
        if tensor.datatype == "BYTES":
            raise RuntimeFailed(
                f"input '{reference}' brings tensor '{tensor.name}' of BYTES, which has no {what}; use vote"
            )


# -- numbers --


def _numeric(tensor: Tensor) -> Array:
    return (tensor.data.astype(np.uint32) << 16).view(np.float32) if tensor.datatype == "BF16" else tensor.data


def _float_of(group: Sequence[tuple[str, Tensor]]) -> str:
    """The datatype of a mean of these."""
    datatypes = {tensor.datatype for _, tensor in group}
    if len(datatypes) == 1:
        only = next(iter(datatypes))
        return only if only in _FLOATS or only == "BF16" else "FP64"
    if datatypes <= _FLOATS:
        return "FP64" if "FP64" in datatypes else "FP32"
    return "FP32" if datatypes <= {"BF16", "FP16", "FP32"} else "FP64"


def _as(name: str, datatype: str, values: Array) -> Tensor:
    match datatype:
        case "BF16":
            bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
            rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
            return Tensor(name, datatype, np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16))
        case "FP16":
            return Tensor(name, datatype, values.astype(np.float16))
        case "FP32":
            return Tensor(name, datatype, values.astype(np.float32, copy=False))
        case _:
            return Tensor(name, datatype, values.astype(np.float64, copy=False))


def _mean(name: str, group: Sequence[tuple[str, Tensor]], weights: Mapping[str, float]) -> Tensor:
    _refuse_text(group, "mean")
    _check_shapes(group)
    # Summed as FP64, so that the order of the inputs makes no difference that FP32 could show.
    total = np.zeros(group[0][1].data.shape, np.float64)
    behind = 0.0
    for reference, tensor in group:
        weight = weights.get(reference, 1.0)
        if weight:
            total += _numeric(tensor) if weight == 1.0 else np.multiply(_numeric(tensor), weight, dtype=np.float64)
            behind += weight
    if not behind:
        raise RuntimeFailed(f"only inputs of weight 0 came ({', '.join(reference for reference, _ in group)})")
    total /= behind
    return _as(name, _float_of(group), total)


def _median(name: str, group: Sequence[tuple[str, Tensor]]) -> Tensor:
    _refuse_text(group, "median")
    _check_shapes(group)
    stacked = np.stack([_numeric(tensor).astype(np.float64) for _, tensor in group])
    return _as(name, _float_of(group), np.asarray(np.median(stacked, axis=0)))


# -- labels --


def _vote(name: str, group: Sequence[tuple[str, Tensor]], weights: Mapping[str, float]) -> Tensor:
    _check_shapes(group)
    labels = [_labels(reference, tensor) for reference, tensor in group]
    datatype = _label_datatype(group)
    share = [weights.get(reference, 1.0) for reference, _ in group]
    if not any(share):
        raise RuntimeFailed(f"only inputs of weight 0 came ({', '.join(reference for reference, _ in group)})")
    behind = np.zeros((len(labels), *labels[0].shape))
    for at, label in enumerate(labels):
        for other, weight in zip(labels, share, strict=True):
            behind[at] += weight * np.asarray(label == other, np.float64)
    most = behind.max(axis=0)
    winner = np.argmax(behind >= most - _WHOLE * sum(share), axis=0)  # the first of those that have most
    chosen = np.take_along_axis(np.stack(labels), winner[np.newaxis], 0)[0]
    return Tensor(name, datatype, np.asarray(chosen, DTYPES[datatype]))


def _labels(reference: str, tensor: Tensor) -> Array:
    data = _numeric(tensor)
    if data.dtype.kind == "O":
        texts: Array = np.empty(data.shape, np.object_)
        texts.reshape(-1)[:] = [each.encode() if isinstance(each, str) else each for each in data.reshape(-1).tolist()]
        return texts
    if data.dtype.kind == "f" and not np.array_equal(data, np.floor(data)):  # NaN is not equal to itself
        raise RuntimeFailed(
            f"input '{reference}' brings tensor '{tensor.name}' of {tensor.datatype} with values that are no whole "
            "numbers, so they are no labels; combine probabilities by mean or weightedMean"
        )
    return data


def _label_datatype(group: Sequence[tuple[str, Tensor]]) -> str:
    datatypes = {tensor.datatype for _, tensor in group}
    if len(datatypes) == 1 and "BF16" not in datatypes:
        return next(iter(datatypes))
    if "BYTES" in datatypes:
        said = ", ".join(f"'{reference}' {tensor.datatype}" for reference, tensor in group)
        raise RuntimeFailed(f"text and numbers cannot be of one vote: {said}")
    if datatypes & {"FP16", "FP32", "FP64", "BF16"}:
        return "FP64" if datatypes - {"FP16", "FP32", "BF16"} else "FP32"
    return datatype_of(np.empty(0, np.result_type(*(tensor.data.dtype for _, tensor in group))))


# -- some of which may be anything --


class _Robust:
    """Combiners that withstand inputs which answer anything."""

    def __init__(self, spec: Combine, weights: Mapping[str, float]) -> None:
        self._type = spec.type
        known = {"f", "dissent", "m"} if spec.type == "multi-krum" else {"f", "dissent"}
        if unknown := [key for key in spec.parameters if key not in known]:
            raise InvalidRequest(f"{spec.type} takes the parameters {', '.join(sorted(known))}, not {unknown[0]!r}")
        if weights and spec.type != "vote":
            raise InvalidRequest(f"{spec.type} takes no weights")
        tells = spec.parameters.get("dissent", False)
        if not isinstance(tells, bool):
            raise InvalidRequest(f"{spec.type}: dissent is {tells!r}; expected true or false")
        self._weights = weights
        self._tells = tells
        usual = 0 if spec.type in {"median", "vote"} else 1
        self._f = _whole(spec, "f", usual, least=0)
        self._m = _whole(spec, "m", 0, least=1) if "m" in spec.parameters else None

    def __call__(self, inputs: Mapping[str, tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        answers: list[Tensor] = []
        dissent = np.zeros(len(inputs), np.bool_)
        for name, group in _groups(inputs):
            answer, others = self._vote(name, group) if self._type == "vote" else self._number(name, group)
            answers.append(answer)
            dissent |= others
        if self._tells:
            answers.append(Tensor("dissent", "BOOL", dissent))
        return tuple(answers)

    def _vote(self, name: str, group: Sequence[tuple[str, Tensor]]) -> tuple[Tensor, Array]:
        if len(group) < 2 * self._f + 1:
            raise RuntimeFailed(f"a vote withstands f of n >= 2 f + 1 inputs; f is {self._f} and {len(group)} came")
        answer = _vote(name, group, self._weights)
        labels = [_labels(reference, tensor) for reference, tensor in group]
        return answer, np.array([bool(np.any(each != answer.data)) for each in labels])

    def _number(self, name: str, group: Sequence[tuple[str, Tensor]]) -> tuple[Tensor, Array]:
        _refuse_text(group, self._type)
        f = self._f
        try:
            members = robust.stacked([(reference, _numeric(tensor).astype(np.float64)) for reference, tensor in group])
            match self._type:
                case "krum":
                    answer = robust.krum(members, f)[0]
                case "multi-krum":
                    answer = robust.multi_krum(members, f, self._m)[0]
                case "trimmed-mean":
                    answer = robust.trimmed_mean(members, f)
                case _:
                    answer = robust.median(members, f)
        except InvalidRequest as error:  # what the members answered is no fault of the request
            raise RuntimeFailed(f"tensor '{name}': {error}") from error
        others = robust.dissent(members, answer, f) if self._tells else np.zeros(len(group), np.bool_)
        return _as(name, _float_of(group), answer), others


def _whole(spec: Combine, key: str, usual: int, *, least: int) -> int:
    value = spec.parameters.get(key, usual)
    if type(value) is not int or value < least:
        raise InvalidRequest(f"{spec.type}: {key} is {value!r}; expected a whole number of at least {least}")
    return value


# -- columns --


def _concatenate(name: str, group: Sequence[tuple[str, Tensor]], axis: int) -> Tensor:
    rank = max(tensor.data.ndim for _, tensor in group)
    datatypes = {tensor.datatype for _, tensor in group}
    if "BYTES" in datatypes and len(datatypes) > 1:
        said = ", ".join(f"'{reference}' {tensor.datatype}" for reference, tensor in group)
        raise RuntimeFailed(f"text and numbers cannot stand in one tensor: {said}")
    arrays = [tensor.data if len(datatypes) == 1 else _numeric(tensor) for _, tensor in group]
    if axis in {1, -1} and rank <= 2:
        arrays = [array[:, np.newaxis] if array.ndim == 1 else array for array in arrays]
    try:
        joined = np.concatenate(arrays, axis=axis)
    except ValueError as error:  # numpy's AxisError is one
        said = ", ".join(f"'{reference}' {list(tensor.data.shape)}" for reference, tensor in group)
        raise RuntimeFailed(f"shapes do not concatenate on axis {axis}: {said}") from error
    return Tensor(name, group[0][1].datatype if len(datatypes) == 1 else datatype_of(joined), joined)


# -- one's own --


class _Custom:
    """Somebody's function or class as a combiner; `close` gives its code back."""

    def __init__(self, own: Own) -> None:
        self._own = own
        self._seldon = not own.offers("combine") and (own.offers("aggregate") or own.offers("aggregate_raw"))
        if self._seldon:
            function: Any = seldon.Component(own.found, own.name).aggregate
        elif own.offers("combine") or callable(own.found):
            function = own.found.combine if own.offers("combine") else own.found
        else:
            own.close()
            raise LoadFailed(f"{own.name} cannot combine: expected a function, or a class with combine or aggregate")
        self._call = Call(function, name=own.name, owner=own.found)

    async def __call__(self, inputs: Mapping[str, tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        if not inputs:
            raise RuntimeFailed("nothing came to combine; expected the answer of at least one input")
        if self._seldon:
            answer: seldon.Answer = await self._call(list(inputs.values()))
            return answer.tensors
        given = await self._call({key: {each.name: each.data for each in tensors} for key, tensors in inputs.items()})
        first = next((tensors[0].name for tensors in inputs.values() if tensors), "output-0")
        return _tensors(given, first, self._own.name)

    def close(self) -> None:
        self._own.close()


def _tensors(given: Any, name: str, what: str) -> tuple[Tensor, ...]:
    named = given if isinstance(given, Mapping) else {name: given}
    if not named:
        raise RuntimeFailed(f"{what} answered with no tensor; expected an array, or arrays by name")
    try:
        return tuple(seldon.tensor(str(key), value) for key, value in named.items())
    except HeadraceError as error:
        raise RuntimeFailed(f"{what}: {error}") from error
