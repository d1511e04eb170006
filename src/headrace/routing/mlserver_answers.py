"""Step 3 of the walk: a model's answers in the form that MLServer gives them, for clients made for it.

`app.py` wraps the models whose settings came from MLServer (`Served.dialect` is `mlserver`). What MLServer adds, as it
was observed on release 1.7.1: an id for requests without one, the CloudEvents attributes as headers of request and
answer, `parameters` in every answer, results of rank 1 as `[rows, 1]`, and the content type of every output.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from headrace.payload import Infer, InferenceRequest, InferenceResponse, InferStream, Parameters, Tensor

_NUMPY: Final = {"content_type": "np"}
_TEXT: Final = {"content_type": "str"}
_FRAME: Final = {"content_type": "pd"}
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


def answers(
    infer: Infer,
    *,
    model: str,
    version: str,
    server_name: str,
    whole: bool,
    namespace: str = "",
    platform: str = "",
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
        platform: The signature's; `mlflow` answers as MLServer's MLflow runtime does.
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
    shape = _of_mlflow if platform == "mlflow" else _of_arrays

    async def answer(request: InferenceRequest) -> InferenceResponse:
        if request.protocol in _OTHERS:
            return await infer(request)
        identity = identify(request)
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
    platform: str = "",
    faithful: bool = False,
) -> InferStream:
    """The twin for streams. Over REST, the headers of each answer stand in its parameters, as MLServer has them there.

    Args: as of `answers`.
    """
    identify = _identify_faithfully if faithful else _identify
    asked, told = attributes(model, server_name, namespace, "request"), attributes(model, server_name, namespace)
    shape = _of_mlflow if platform == "mlflow" else _of_arrays

    async def answer(request: InferenceRequest) -> AsyncIterator[InferenceResponse]:
        identity = identify(request)
        responses = stream(_attributed(request, identity, asked) if whole else request)
        inside = request.protocol == _REST
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


def new_id() -> str:
    """A random UUID (RFC 9562, version 4) as text; faster than the class, whose checks and fields nobody needs here."""
    text = os.urandom(16).hex()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{_VARIANT[int(text[16], 16) & 3]}{text[17:20]}-{text[20:]}"


def _identify(request: InferenceRequest) -> str:
    return request.id or new_id()


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


def _of_mlflow(response: InferenceResponse, identity: str, headers: dict[str, str]) -> InferenceResponse:
    """As MLServer's MLflow runtime: one array is `output-1` by the codec `np`, columns are a table by `pd`."""
    outputs = response.outputs
    kind: Mapping[str, Any] = _FRAME
    if len(outputs) == 1 and outputs[0].name in _UNNAMED:
        outputs = (_column(msgspec.structs.replace(outputs[0], name="output-1"), _NUMPY),)
        kind = _NUMPY
    else:
        outputs = tuple([_column(each, _TEXT if each.datatype == "BYTES" else _NUMPY) for each in outputs])
    return InferenceResponse(
        model_name=response.model_name,
        outputs=outputs,
        model_version=response.model_version,
        id=identity,
        parameters={**kind, **response.parameters},
        headers=headers,
    )


_UNNAMED: Final = frozenset({"predict", "output-0"})
"""What our MLflow runtime calls the one output of a model that does not name it."""


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
