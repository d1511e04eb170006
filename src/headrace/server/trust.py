"""The paths by which a model is asked why, how it fares, and told what was true: explanations and their jobs, the
status and the report of what watches it, labels that come later. `rest` dispatches to it.

Who watches and who explains are other rooms; here are a request's body, its format and its address.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import quote, unquote

import msgspec

from headrace.errors import NotFound
from headrace.payload import InferenceRequest
from headrace.protocols import explain as wire
from headrace.protocols import labels, v1
from headrace.protocols.documents import read_json
from headrace.protocols.explain import ExplainReply, ExplainRequest, JobStatus
from headrace.server import model_routes
from headrace.server.http import HttpReply, HttpRequest
from headrace.serving.models import Models, Served

if TYPE_CHECKING:
    from headrace.server.rest import Target

_HTML: Final = b"text/html; charset=utf-8"


class TrustSurface(Protocol):
    """What watches models (`monitoring.watch`)."""

    async def status(self, model: str, version: str) -> Mapping[str, Any]:
        """What its detectors say now. Raises NotFound where nobody watches it."""

    async def report(self, model: str, version: str) -> bytes:
        """The same as a page of HTML that needs nothing else. Raises as `status`."""

    async def label(self, model: str, version: str, request_id: str, labels: list[Any]) -> bool:
        """What was true of a request's rows; whether anybody keeps it."""


class Trust:
    """What the paths do.

    Args:
        models: The routing table.
        surface: What watches models; None: nothing does.
        parse: A V2 body as a request of a model.
        body: A request's body, its content encoding undone.
        root: Before every path.
    """

    def __init__(
        self,
        models: Models,
        surface: TrustSurface | None,
        *,
        parse: Callable[[HttpRequest, Served], InferenceRequest],
        body: Callable[[HttpRequest], bytes],
        root: str = "",
    ) -> None:
        self._models, self._surface, self._parse, self._body, self._root = models, surface, parse, body, root

    @property
    def is_there(self) -> bool:
        """Whether anything watches models."""
        return self._surface is not None

    # -- explanations --

    async def explain(self, request: HttpRequest, target: Target) -> HttpReply:
        """V2: the answer in the form asked for, or where it will be."""
        served = self._models.route(target.name, target.version)
        own = self._own(request, served)
        if own is not None:
            path = request.target.decode("latin-1").partition("?")
            target_of_own = f"{own.route.path}{path[1]}{path[2]}"
            return await model_routes.visit(own, request, target=target_of_own, body=self._body(request))
        by = self._explaining(served, target)
        asked = wire.parse(self._parse(request, served), accept=request.headers.get("accept", ""))
        return await self._explained(by, asked, v1_form=False)

    async def explain_v1(self, request: HttpRequest, target: Target) -> HttpReply:
        """V1: the same."""
        served = self._models.route(target.name, target.version)
        by = self._explaining(served, target)
        inference = v1.parse(
            self._body(request),
            model_name=served.name,
            model_version=served.version,
            signature=served.signature,
            headers=request.headers,
            deadline=request.deadline,
        )
        asked = wire.parse_v1(inference, accept=request.headers.get("accept", ""))
        return await self._explained(by, asked, v1_form=True)

    def _explaining(self, served: Served, target: Target) -> Served:
        """What is asked why; of one version, itself. Raises NotFound where nothing explains it."""
        by = served if target.version else self._models.explaining(served)
        by.explained()
        return by

    async def _explained(self, served: Served, asked: ExplainRequest, *, v1_form: bool) -> HttpReply:
        explain = served.explained()
        if asked.is_job:
            status = explain.submit(asked)
            location = self._address(served, status)
            headers = ((b"location", location.encode()),)
            return HttpReply(wire.render_job(status, location), 202, headers=headers)
        reply = await explain(asked)
        return _rendered(reply, asked.format, v1_form=v1_form)

    async def job(self, request: HttpRequest, target: Target) -> HttpReply:
        """How far a job is; once it is done, its answer, in the form that Accept says."""
        served = self._models.find(target.name, target.version)
        status = served.explained().job(_last(request))
        form = wire.negotiated(request.headers.get("accept", ""))
        if status.reply is not None and form != "machine":
            return _rendered(status.reply, form, v1_form=False)
        return HttpReply(wire.render_job(status, self._address(served, status)))

    async def cancel(self, request: HttpRequest, target: Target) -> HttpReply:
        """End a job and forget it."""
        served = self._models.find(target.name, target.version)
        status = served.explained().cancel(_last(request))
        return HttpReply(wire.render_job(status, self._address(served, status)))

    def _address(self, served: Served, status: JobStatus) -> str:
        version = f"/versions/{quote(served.version, safe='')}" if served.version else ""
        return f"{self._root}/v2/models/{quote(served.key, safe='')}{version}/explain/jobs/{status.id}"

    def _own(self, request: HttpRequest, served: Served) -> model_routes.Claim | None:
        """A route of a model's own that is before ours: one of this very path, or, of a model that only explains by
        its own code (classes written for MLServer have `POST /explain`), that one.
        """
        segments = [unquote(each) for each in _path(request, self._root).strip("/").split("/")]
        claims = model_routes.claims(self._models, segments)
        if served.explain is None:
            claims += model_routes.claims([served], ["explain"])
        return next((each for each in claims if each.route.method.upper() == "POST"), None)

    # -- what watches it --

    async def status(self, request: HttpRequest, target: Target) -> HttpReply:
        """What its detectors say now."""
        served = self._models.find(target.name, target.version)
        return HttpReply(msgspec.json.encode(await self._watched(served).status(served.name, served.version)))

    async def report(self, request: HttpRequest, target: Target) -> HttpReply:
        """The same as a page."""
        served = self._models.find(target.name, target.version)
        return HttpReply(await self._watched(served).report(served.name, served.version), content_type=_HTML)

    def _watched(self, served: Served) -> TrustSurface:
        if self._surface is None:
            raise NotFound(f"nothing watches {served.describe()}, since trust.enabled is off")
        return self._surface

    # -- what was true --

    async def labels(self, body: bytes, target: Target) -> bytes:
        """Hand on what a body says was true of requests; the answer says of how many somebody knew the request.

        Without a version in the path, each version is asked for the request.

        Raises:
            InvalidRequest: the body says nothing of the kind.
            NotFound: nothing watches models here.
        """
        served = self._models.find(target.name, target.version)
        self._watched(served)
        truths = labels.parse(body)
        known = 0
        for each in truths:
            known += await self.label(served, each.request_id, list(each.labels), any_version=not target.version)
        return labels.render_taken(served.name, len(truths), known)

    async def label(self, served: Served, request_id: str, given: list[Any], *, any_version: bool = True) -> bool:
        """Hand on what was true of one request; whether anybody knew it."""
        if self._surface is None:
            return False
        versions = self._models.versions(served.key) if any_version else [served]
        for each in reversed(versions):
            try:
                if await self._surface.label(each.name, each.version, request_id, given):
                    return True
            except NotFound:  # this version is not watched; another may be
                continue
        return False


def says_labels(body: bytes) -> bool:
    """Whether feedback says what was true. A reward may stand beside it.

    Raises:
        InvalidRequest: it is not JSON.
    """
    document = read_json(body)
    if not isinstance(document, dict):
        return isinstance(document, list)
    return "feedback" in document or any(document.get(each) is not None for each in ("labels", "truth"))


def says_reward(body: bytes) -> bool:
    """Whether feedback is for routers that learn: it has a reward, or is nothing else either."""
    document = read_json(body)
    return isinstance(document, dict) and ("reward" in document or not says_labels(body))


def _rendered(reply: ExplainReply, form: wire.Format, *, v1_form: bool) -> HttpReply:
    if form == "machine":
        return HttpReply(wire.render_v1(reply) if v1_form else wire.render(reply))
    if form == "text":
        return HttpReply(wire.render_text(reply), content_type=wire.MEDIA[form])
    image = wire.render_image(reply)
    kind = b"image/png" if image.startswith(b"\x89PNG") else b"image/svg+xml"
    return HttpReply(image, content_type=kind)


def _path(request: HttpRequest, root: str) -> str:
    path = request.target.partition(b"?")[0].decode("latin-1")
    return path[len(root) :] if root and path.startswith(root + "/") else path


def _last(request: HttpRequest) -> str:
    return unquote(request.target.partition(b"?")[0].rstrip(b"/").rpartition(b"/")[2].decode("latin-1"))
