"""What model code asks for most: where its files are."""

from __future__ import annotations

import asyncio
import os
import urllib.parse
import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Dict, Optional

from .errors import InvalidModelURI
from .logging import logger
from .settings import ModelSettings
from .types import InferenceRequest, InferenceResponse, Parameters


async def get_model_uri(
    settings: ModelSettings,
    wellknown_filenames: Sequence[str] = (),
    allowed_schemes: Optional[Sequence[str]] = None,
) -> str:
    """Where the model's files are.

    Args:
        settings: Its `parameters.uri`, relative to the file they came from.
        wellknown_filenames: Names to look for where the uri is a folder; the first that exists wins.
        allowed_schemes: Schemes (`s3`) that the caller opens itself, beside files. None: any.

    Raises:
        InvalidModelURI: none is set, nothing is there, or the scheme is not allowed.
    """
    uri = settings.parameters.uri if settings.parameters is not None else None
    if not uri:
        raise InvalidModelURI(settings.name)
    scheme = urllib.parse.urlparse(uri).scheme
    if scheme and scheme != "file":
        if allowed_schemes is not None and scheme not in {allowed.split(":")[0] for allowed in allowed_schemes}:
            raise InvalidModelURI(settings.name, uri)
        return uri
    path = urllib.parse.urlparse(uri).path if scheme else uri
    path = to_absolute_path(settings, path)
    if os.path.isfile(path):
        return path
    if os.path.isdir(path):
        for name in wellknown_filenames:
            candidate = os.path.join(path, name)
            if os.path.isfile(candidate):
                return candidate
        return path
    raise InvalidModelURI(settings.name, uri)


def to_absolute_path(model_settings: ModelSettings, uri: str) -> str:
    """A relative path, from the folder of the settings' file."""
    source = model_settings._source
    if source is None:
        return uri
    return os.path.normpath(os.path.join(os.path.dirname(source), uri))


def get_wrapped_method(f: Callable[..., Any]) -> Callable[..., Any]:
    """The function beneath its decorators."""
    while hasattr(f, "__wrapped__"):
        f = f.__wrapped__
    return f


def generate_uuid() -> str:
    """A fresh id."""
    return str(uuid.uuid4())


def insert_headers(inference_request: InferenceRequest, headers: Dict[str, str]) -> InferenceRequest:
    """The request, with transport headers among its parameters."""
    if inference_request.parameters is None:
        inference_request.parameters = Parameters(headers=headers)
        return inference_request
    if inference_request.parameters.headers:
        logger.warning(
            "There are %d entries present in the `headers` field of the request `parameters` object. The `headers` "
            "field of the `parameters` object SHOULDN'T BE USED directly. These entries will be replaced by the "
            "actual headers (REST, Kafka) or metadata (gRPC) of the incoming request.",
            len(inference_request.parameters.headers),
        )
    inference_request.parameters.headers = headers
    return inference_request


def extract_headers(inference_response: InferenceResponse) -> Optional[Dict[str, str]]:
    """Take the headers out of a response's parameters."""
    if inference_response.parameters is None:
        return None
    headers = inference_response.parameters.headers
    inference_response.parameters.headers = None
    return headers


def install_uvloop_event_loop() -> None:
    """Nothing to do: Headrace runs its loops on uvloop where it can."""


def schedule_with_callback(coro: Coroutine[Any, Any, Any], cb: Callable[[asyncio.Task[Any]], Any]) -> asyncio.Task[Any]:
    """A task of the coroutine, and what to call when it is done."""
    task = asyncio.create_task(coro)
    task.add_done_callback(cb)
    return task
