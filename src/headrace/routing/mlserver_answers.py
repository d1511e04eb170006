"""Step 3 of the walk: a model's answers in the form that MLServer gives them, for clients made for it.

`app.py` wraps the models whose settings came from MLServer (`Served.dialect` is `mlserver`). What MLServer adds, as it
was observed on release 1.7.1: an id for requests without one, the CloudEvents attributes as headers of request and
answer, `parameters` in every answer, results of rank 1 as `[rows, 1]`, and the content type of every output.
"""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from headrace.payload import (
    EMPTY,
    Infer,
    InferenceRequest,
    InferenceResponse,
    InferStream,
    Parameters,
    RequestedOutput,
    Signature,
    Tensor,
    TensorSpec,
)

_NUMPY: Final = {"content_type": "np"}
_TEXT: Final = {"content_type": "str"}
_FRAME: Final = {"content_type": "pd"}
_DICT: Final = {"content_type": "dict"}
_NONE: Final[Parameters] = {}
"""Shown in the answer as `{}`: the protocols leave out `payload.EMPTY`, and it alone."""
_GRPC: Final = "v2_grpc"
_REST: Final = "v2_rest"
_OTHERS: Final = frozenset({"v1", "mlflow"})
"""Protocols with a form of their own, in which a column of one is one value a row."""
_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_VARIANT: Final = "89ab"

Identify = Callable[[InferenceRequest], str]
"""The id that a request goes by."""
Shape = Callable[[InferenceResponse, str, dict[str, str]], InferenceResponse]
"""An answer in MLServer's form, from the model's, the request's id and the headers to add."""
Ask = Callable[[InferenceRequest], tuple[InferenceRequest, Shape]]
"""What the model is asked for a request, and the form of its answer."""


def answers(
    infer: Infer,
    *,
    model: str,
    version: str,
    server_name: str,
    whole: bool,
    namespace: str = "",
    signature: Signature | None = None,
    faithful: bool = False,
) -> Infer:
    """The model with its answers in MLServer's form.

    Args:
        infer: The model.
        model: Its name.
        version: Its version; empty: it has none, and its answers carry none.
        server_name: `server.name`, which the CloudEvents attributes show.
        whole: It is code written for MLServer: its outputs are as it made them, and it sees the request's attributes.
        namespace: Of the Kubernetes pod; empty: none.
        signature: The model's: which of MLServer's runtimes it is answered like, and what its tables are made of.
        faithful: `compat.answers: mlserver`: a gRPC request without id stays without.
    """
    identify = _identify_faithfully if faithful else _identify
    asked, told = attributes(model, server_name, namespace, "request"), attributes(model, server_name, namespace)
    if whole:

        async def answer_whole(request: InferenceRequest) -> InferenceResponse:
            identity = identify(request)
            response = await infer(_attributed(request, identity, asked))
            return _shown(response, identity, _marked({**response.headers, **told}, identity), version)

        return answer_whole
    ask = _asking(signature)
    if ask is _ask_for_arrays:  # nearly every model

        async def answer_arrays(request: InferenceRequest) -> InferenceResponse:
            if request.protocol in _OTHERS:
                return await infer(request)
            identity = identify(request)
            return _of_arrays(await infer(request), identity, _marked({**told}, identity))

        return answer_arrays

    async def answer(request: InferenceRequest) -> InferenceResponse:
        if request.protocol in _OTHERS:
            return await infer(request)
        identity = identify(request)
        request, shape = ask(request)
        response = await infer(request)
        return shape(response, identity, _marked({**told}, identity))

    return answer


def answers_stream(
    stream: InferStream,
    *,
    model: str,
    version: str,
    server_name: str,
    whole: bool,
    namespace: str = "",
    signature: Signature | None = None,
    faithful: bool = False,
) -> InferStream:
    """The twin for streams. Over REST, the headers of each answer stand in its parameters, as MLServer has them there.

    Args: as of `answers`.
    """
    identify = _identify_faithfully if faithful else _identify
    asked, told = attributes(model, server_name, namespace, "request"), attributes(model, server_name, namespace)
    ask = _asking(signature)

    async def answer(request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
        identity = identify(request)
        inside = request.protocol == _REST
        request, shape = (_attributed(request, identity, asked), _of_arrays) if whole else ask(request)
        responses = stream(request)
        try:
            async for response in responses:
                headers = _marked({**response.headers, **told}, identity)
                shaped = _shown(response, identity, headers, version) if whole else shape(response, identity, headers)
                if inside:
                    shaped = msgspec.structs.replace(shaped, parameters={"headers": headers, **shaped.parameters})
                yield shaped
        finally:
            close = getattr(responses, "aclose", None)  # whoever leaves early stops the model too
            if close is not None:
                await close()

    return answer


def attributes(model: str, server_name: str, namespace: str = "", kind: str = "response") -> dict[str, str]:
    """The CloudEvents attributes that MLServer puts on every request and answer of a model, all but the id.

    Args:
        model: The model's name.
        server_name: The server's.
        namespace: Of the Kubernetes pod; empty: none.
        kind: `request` or `response`.
    """
    source = f"io.seldon.serving.deployment.{server_name}" + (f".{namespace}" if namespace else "")
    found = {
        "Ce-Specversion": "0.3",
        "Ce-Source": source,
        "Ce-Type": f"io.seldon.serving.inference.{kind}",
        "Ce-Modelid": model,
        "Ce-Inferenceservicename": server_name,
        "Ce-Endpoint": model,
    }
    return {**found, "Ce-Namespace": namespace} if namespace else found


def namespace(file: Path = _NAMESPACE) -> str:
    """The Kubernetes namespace of the pod that this runs in; empty: it runs in none. Reads a file."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _ids() -> Iterator[str]:
    while True:
        block = os.urandom(4096).hex()  # one turn of the kernel for 256 ids
        for at in range(0, len(block), 32):
            text = block[at : at + 32]
            variant = _VARIANT[int(text[16], 16) & 3]
            yield f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{variant}{text[17:20]}-{text[20:]}"


_made: Final = _ids()


def new_id() -> str:
    """A random UUID (RFC 9562, version 4) as text; faster than the class, whose checks and fields nobody needs here."""
    return next(_made)


def _identify(request: InferenceRequest) -> str:
    return request.id or next(_made)


def _identify_faithfully(request: InferenceRequest) -> str:
    return request.id or ("" if request.protocol == _GRPC else new_id())


def _marked(headers: dict[str, str], identity: str) -> dict[str, str]:
    if identity and identity.isprintable():  # a caller's line break must not become a header
        headers["Ce-Id"] = headers["Ce-Requestid"] = identity
    return headers


def _attributed(request: InferenceRequest, identity: str, asked: Mapping[str, str]) -> InferenceRequest:
    headers = _marked({**request.headers, **asked}, identity)
    return msgspec.structs.replace(request, id=identity, headers=headers)


def _shown(response: InferenceResponse, identity: str, headers: dict[str, str], version: str) -> InferenceResponse:
    """What code written for MLServer answered, as it made it."""
    return InferenceResponse(
        model_name=response.model_name,
        outputs=response.outputs,
        model_version=response.model_version or version,
        id=response.id or identity,
        parameters=response.parameters or _NONE,
        headers=headers,
    )


def _of_arrays(response: InferenceResponse, identity: str, headers: dict[str, str]) -> InferenceResponse:
    """As the runtimes of MLServer that answer with one array for each output: everything by the codec `np`."""
    return InferenceResponse(
        model_name=response.model_name,
        outputs=tuple([_column(each, _NUMPY) for each in response.outputs]),
        model_version=response.model_version,
        id=identity,
        parameters=response.parameters or _NONE,
        headers=headers,
    )


def _asking(signature: Signature | None) -> Ask:
    """As the runtime of MLServer that the model would have there."""
    if signature is None:
        return _ask_for_arrays
    if signature.platform == "mlflow":
        return _asking_mlflow(signature.properties)
    table = _table_of(signature)
    if not table:
        return _ask_for_arrays
    columns = tuple(map(RequestedOutput, table))

    def ask(request: InferenceRequest) -> tuple[InferenceRequest, Shape]:
        names = tuple([each.name for each in request.outputs]) or signature.default_outputs
        if names == (_TRANSFORM,):
            return msgspec.structs.replace(request, outputs=columns), _of_table
        return request, _of_arrays

    return ask


def _ask_for_arrays(request: InferenceRequest) -> tuple[InferenceRequest, Shape]:
    return request, _of_arrays


def _table_of(signature: Signature) -> tuple[str, ...]:
    """The columns of a `transform` that gives a table, each of which is an output too; empty: it gives an array."""
    names = {spec.name for spec in signature.outputs}
    labels = next((spec.labels for spec in signature.outputs if spec.name == _TRANSFORM), ())
    return labels if names.issuperset(labels) else ()


def _asking_mlflow(properties: Mapping[str, str]) -> Ask:
    """As MLServer's MLflow runtime: one array is `output-1` by its codec, a table is `pd`, arrays by name are `dict`.

    MLServer gives all outputs whatever is asked for, and calls an only one `output-0` in metadata and `output-1` in
    answers: asking for it by either name gives it.
    """
    is_array = properties.get("loader") in _ARRAYS
    binary = frozenset(filter(None, properties.get("binary_columns", "").split(",")))
    is_dict = properties.get("output_schema") == "tensors"

    def shape(response: InferenceResponse, identity: str, headers: dict[str, str]) -> InferenceResponse:
        outputs = response.outputs
        kind: Mapping[str, Any] = _DICT if is_dict else _FRAME
        is_list = not is_dict and "content_type" in outputs[0].parameters if outputs else False
        if len(outputs) == 1 and (is_array or is_list or outputs[0].name in _UNNAMED):
            outputs = (_column(msgspec.structs.replace(outputs[0], name="output-1"), _NUMPY),)
            kind = {"content_type": outputs[0].parameters["content_type"]}
        else:
            outputs = tuple([_column(each, _NUMPY) for each in outputs]) if is_dict else _columns(outputs)
        return InferenceResponse(
            model_name=response.model_name,
            outputs=outputs,
            model_version=response.model_version,
            id=identity,
            parameters={**kind, **response.parameters},
            headers=headers,
        )

    def ask(request: InferenceRequest) -> tuple[InferenceRequest, Shape]:
        if request.outputs and all(each.name in _UNNAMED for each in request.outputs):
            request = msgspec.structs.replace(request, outputs=())
        if binary:
            inputs = tuple([_in_base64(each) if each.name in binary else each for each in request.inputs])
            request = msgspec.structs.replace(request, inputs=inputs)
        return request, shape

    return ask


def _in_base64(tensor: Tensor) -> Tensor:
    """A column of bytes, marked as the base64 that MLServer takes it for where it says nothing and can be that."""
    if tensor.datatype != "BYTES" or "content_type" in tensor.parameters:
        return tensor
    try:
        for each in tensor.data.reshape(-1).tolist():
            base64.b64decode(each, validate=True)
    except ValueError:
        return tensor
    return Tensor(tensor.name, tensor.datatype, tensor.data, {**tensor.parameters, "content_type": "base64"})


def _of_table(response: InferenceResponse, identity: str, headers: dict[str, str]) -> InferenceResponse:
    """As MLServer's scikit-learn runtime shows a DataFrame."""
    return InferenceResponse(
        model_name=response.model_name,
        outputs=_columns(response.outputs),
        model_version=response.model_version,
        id=identity,
        parameters=response.parameters or _NONE,
        headers=headers,
    )


_TRANSFORM: Final = "transform"
_ARRAYS: Final = frozenset({"mlflow.sklearn", "mlflow.xgboost", "mlflow.lightgbm", "mlflow.catboost"})
"""MLflow's loaders of models that answer with one array, whatever their signature calls it."""
_UNNAMED: Final = frozenset({"predict", "output-0", "output-1"})
"""What our MLflow runtime, MLServer's metadata and MLServer's answers call the one output of a model without a name."""


def metadata(signature: Signature) -> dict[str, Any]:
    """Members of metadata that MLServer's runtime would have filled in from the model: its MLflow runtime does.

    Columns are `[-1, 1]` and the whole of them a table, `pd`; tensors are `np`, several by name `dict`. What has no
    schema is left as our own runtime knows it.
    """
    found: dict[str, Any] = {}
    schemas = signature.properties
    for role, specs in (("inputs", signature.inputs), ("outputs", signature.outputs)):
        kind = schemas.get(f"{role[:-1]}_schema") if signature.platform == "mlflow" else None
        if kind is None:
            continue
        binary = schemas.get("binary_columns", "").split(",") if role == "inputs" else ()
        found[role] = [_described(spec, kind, in_base64=spec.name in binary) for spec in specs]
        if role == "inputs":
            is_named = any(spec.name != "input-0" for spec in specs)
            found["parameters"] = _FRAME if kind == "columns" else _DICT if is_named else _NUMPY
    return found


def _described(spec: TensorSpec, kind: str, *, in_base64: bool) -> dict[str, Any]:
    content_type = (
        "base64"
        if in_base64
        else spec.content_type or ("str" if spec.datatype == "BYTES" and kind == "columns" else "np")
    )
    return {
        "name": "output-0" if spec.name == "predict" else spec.name,
        "datatype": spec.datatype,
        "shape": [-1, 1] if kind == "columns" and spec.shape == (-1,) else list(spec.shape),
        "parameters": {"content_type": content_type},
    }


def _columns(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Columns of a table: only text says its codec."""
    return tuple([_column(each, _TEXT if each.datatype == "BYTES" else EMPTY) for each in tensors])


def _column(tensor: Tensor, content_type: Parameters) -> Tensor:
    data, parameters = tensor.data, tensor.parameters
    if data.ndim == 1:
        data = data.reshape(-1, 1)
    elif "content_type" in parameters:
        return tensor
    return Tensor(
        tensor.name,
        tensor.datatype,
        data,
        parameters if "content_type" in parameters else {**content_type, **parameters} if parameters else content_type,
    )
