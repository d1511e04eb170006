"""The container contract of MLflow and SageMaker: `/ping`, `/health`, `/version` and `/invocations`, for any model, on
the port of REST. `rest` dispatches to it.

`/invocations` asks the one model there is. Where there are several, a caller says which: the path
`/v2/models/{model}/invocations`; `?model=NAME` (and `&version=VERSION`); the headers of SageMaker's callers
`X-Amzn-SageMaker-Target-Model: NAME` (`NAME.tar.gz` is the same) and `X-Amzn-SageMaker-Custom-Attributes:
tfs-model-name=NAME,tfs-model-version=VERSION`. For who says nothing, it is the one that the setting names, else the
one MLflow model. Pipelines and experiments are asked for as `NAME.pipeline`, `NAME.experiment`.

`/ping` answers 200 once the server is ready and 503 before, as SageMaker wants it within two seconds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

import msgspec

from headrace.errors import InvalidRequest, NotFound
from headrace.protocols import invocations
from headrace.server.answer_headers import fields_of
from headrace.server.http import JSON, TEXT, HttpReply, HttpRequest
from headrace.serving.models import Models, Served, State

if TYPE_CHECKING:
    from headrace.server.rest import Target

Call = Callable[[HttpRequest, "Target"], Awaitable[HttpReply]]
TARGET_MODEL: Final = "x-amzn-sagemaker-target-model"
ATTRIBUTES: Final = "x-amzn-sagemaker-custom-attributes"
_ARCHIVE: Final = ".tar.gz"
_LISTED: Final = 10


class Asked(msgspec.Struct, frozen=True):
    """What a request to `/invocations` says of whom it asks; empty: nothing."""

    name: str = ""
    version: str = ""


def asked(target: bytes, headers: Mapping[str, str]) -> Asked:
    """Whom a request names: in its query, else in SageMaker's headers.

    Raises:
        InvalidRequest: the query has a member of another name.
    """
    if b"?" in target:
        found = dict(parse_qsl(target.partition(b"?")[2].decode("latin-1")))
        for key in found:
            if key not in {"model", "version"}:
                raise InvalidRequest(f"unknown member '{key}' of the query: /invocations takes model and version")
        if found:
            return Asked(found.get("model", ""), found.get("version", ""))
    if TARGET_MODEL in headers:
        return Asked(headers[TARGET_MODEL].strip().lstrip("/"))
    if ATTRIBUTES in headers:
        told = dict(_pairs(headers[ATTRIBUTES]))
        return Asked(told.get("tfs-model-name", ""), told.get("tfs-model-version", ""))
    return Asked()


def _pairs(text: str) -> Iterable[tuple[str, str]]:
    """Members of a list `name=value,name=value`, as TensorFlow Serving's container reads it; others are somebody
    else's.
    """
    for part in text.split(","):
        name, mark, value = part.partition("=")
        if mark:
            yield name.strip().lower(), value.strip()


def choose(found: Asked, models: Iterable[Served], default: str = "") -> str:
    """The name of the model that a request to `/invocations` is for.

    Args:
        found: What the request says.
        models: All there are.
        default: What the setting says.

    Raises:
        InvalidRequest: it could be any of several; lists them.
        NotFound: there is no model.
    """
    here = list(models)
    if found.name:
        bare = found.name.removesuffix(_ARCHIVE)
        return found.name if bare == found.name or any(each.name == found.name for each in here) else bare
    if default:
        return default
    names = {each.name for each in here if each.kind == "model" and each.wanted}
    if len(names) == 1:
        return names.pop()
    flows = {each.name for each in here if is_mlflow(each) and each.state is State.READY}
    if len(flows) == 1:
        return flows.pop()
    if not names:
        raise NotFound("no model is loaded")
    listed = sorted(flows or names)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    raise InvalidRequest(
        f"{len(listed)} models are served; say which: "
        + ", ".join(f"/v2/models/{name}/invocations" for name in listed[:_LISTED])
        + f"{more}, or /invocations?model={listed[0]}"
    )


def is_mlflow(served: Served) -> bool:
    """Whether MLflow's runtime answers it."""
    return served.signature is not None and served.signature.platform == "mlflow"


class Invocations:
    """What the paths of the container contract do.

    Args:
        models: The routing table.
        body: Gives a request's body, its content encoding undone.
        failed: Turns an error into a reply, whose body is then replaced by this protocol's.
        version: The server's own, for `/version` while there is no MLflow model.
        default: The model that is asked where a request names none and there are several; empty: none.
        as_mlserver: The paths at the root are there while an MLflow model is, and answer as MLServer's runtime for
            MLflow does.
    """

    def __init__(
        self,
        models: Models,
        *,
        body: Callable[[HttpRequest], bytes],
        failed: Callable[[Exception, HttpRequest, Target], HttpReply],
        version: str = "",
        default: str = "",
        as_mlserver: bool = False,
    ) -> None:
        self._models, self._body, self._failed = models, body, failed
        self._version, self._default, self._as_mlserver = version, default, as_mlserver
        self._calls: Mapping[str, Mapping[str, Call]] = {
            "invocations": {"POST": self.call},
            "ping": {"GET": self._ping},
            "health": {"GET": self._ping},
            "version": {"GET": self._tell_version},
        }

    @property
    def is_there(self) -> bool:
        """Whether the paths at the root are answered."""
        return not self._as_mlserver or bool(self._flows())

    def match(self, segments: list[str]) -> Mapping[str, Call]:
        """What a path at the root asks for, by method; empty: it is none of these."""
        if len(segments) != 1 or segments[0] not in self._calls or not self.is_there:
            return {}
        return self._calls[segments[0]]

    async def call(self, request: HttpRequest, target: Target) -> HttpReply:
        """Ask the model that the path, the query, a header or the setting names, or the only one."""
        try:
            return await self._score(request, target)
        except Exception as error:  # noqa: BLE001 - this protocol has an error form of its own
            reply = self._failed(error, request, target)
            reply.body = invocations.render_error(error, reply.status)
            return reply

    async def _score(self, request: HttpRequest, target: Target) -> HttpReply:
        name, version, headers = target.name, target.version, request.headers
        if not name:
            found = asked(request.target, headers)
            name, version = choose(found, self._models, self._default), found.version
        served = self._models.route(name, version)
        content_type = headers.get("content-type", "")
        refusal = invocations.refusal(content_type)
        if refusal:
            return HttpReply(invocations.render_error(InvalidRequest(refusal), 415), 415)
        inference = invocations.parse(
            self._body(request),
            content_type=content_type,
            model_name=served.name,
            model_version=served.version,
            signature=served.signature,
            headers=headers,
            deadline=request.deadline,
        )
        response = await served.infer(inference)  # type: ignore[misc]  # set while READY
        signature = served.signature
        answer = "" if signature is None else signature.properties.get("answer", "" if is_mlflow(served) else "array")
        rendered = invocations.render(response, accept=headers.get("accept", ""), answer=answer)
        content = JSON if rendered.content_type == invocations.JSON else rendered.content_type.encode()
        return HttpReply(rendered.body, content_type=content, headers=fields_of(response))

    async def _ping(self, request: HttpRequest, target: Target) -> HttpReply:
        if self._as_mlserver:
            return HttpReply(b'"\\n"')
        return HttpReply(b"\n", 200 if self._models.is_ready() else 503, TEXT)

    async def _tell_version(self, request: HttpRequest, target: Target) -> HttpReply:
        """MLflow's while there is a model of its, which is what its clients look for."""
        signature = next((self._models.route(name).signature for name in self._flows()), None)
        version = self._version if signature is None else signature.libraries.get("mlflow", "")
        return HttpReply(msgspec.json.encode(version)) if self._as_mlserver else HttpReply(version.encode(), 200, TEXT)

    def _flows(self) -> list[str]:
        return sorted({each.name for each in self._models if each.state is State.READY and is_mlflow(each)})
