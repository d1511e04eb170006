"""What the stand-ins for MLServer's official runtimes are made of: names of `mlserver`, whichever is installed, and the
steps that they share.

Imported by `mlserver_sklearn` and the packages beside it, and by nothing else: it imports `mlserver`, ours or the
original. The classes there are for code that derives from them; a model whose settings name such a class itself is
served by our own runtime, which answers the same.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from headrace.errors import MissingExtra

if TYPE_CHECKING:
    from headrace.compat.mlserver.codecs import NumpyCodec, NumpyRequestCodec, PandasCodec
    from headrace.compat.mlserver.errors import InferenceError
    from headrace.compat.mlserver.model import MLModel
    from headrace.compat.mlserver.types import InferenceRequest, InferenceResponse, RequestOutput, ResponseOutput
    from headrace.compat.mlserver.utils import get_model_uri
else:
    from mlserver import MLModel
    from mlserver.codecs import NumpyCodec, NumpyRequestCodec, PandasCodec
    from mlserver.errors import InferenceError
    from mlserver.types import InferenceRequest, InferenceResponse, RequestOutput, ResponseOutput
    from mlserver.utils import get_model_uri

__all__ = [
    "MLModel",
    "InferenceError",
    "InferenceRequest",
    "InferenceResponse",
    "NumpyCodec",
    "NumpyRequestCodec",
    "PandasCodec",
    "RequestOutput",
    "ResponseOutput",
    "get_model_uri",
    "library",
    "fill_outputs",
    "respond",
]


def library(module: str, *, extra: str, needed_by: MLModel) -> Any:
    """The framework's module, imported when a model loads.

    Raises:
        MissingExtra: it is not installed; names the extra that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise MissingExtra(
            f"{type(needed_by).__name__} needs {module}, which is not installed; run: pip install 'headrace[{extra}]'"
        ) from error


def fill_outputs(payload: InferenceRequest, default: str, known: Collection[str], said: str) -> list[str]:
    """The names of the outputs that a request asks for; where it asks for none, it then asks for the default.

    Args:
        payload: Gets its `outputs` set, where it has none.
        default: Asked for in place of none. Need not be among those known.
        known: The outputs that may be asked for.
        said: What to say of any other: whose outputs, and which there are.

    Raises:
        InferenceError: it asks for an output that is not known.
    """
    if not payload.outputs:
        payload.outputs = [RequestOutput(name=default)]
        return [default]
    for output in payload.outputs:
        if output.name not in known:
            raise InferenceError(f"{said} as outputs ({output.name} was received)")
    return [output.name for output in payload.outputs]


def respond(model: MLModel, outputs: Sequence[ResponseOutput]) -> InferenceResponse:
    """A response of the model with these outputs."""
    return InferenceResponse(model_name=model.name, model_version=model.version, outputs=list(outputs))
