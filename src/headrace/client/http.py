"""A synchronous client of the Open Inference Protocol over HTTP/1.1, on the standard library. Notebooks, the command
line and programs call it.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, Final, Literal, Self
from urllib.parse import SplitResult, quote, urlsplit

import msgspec

from headrace.client import explanations, tensors
from headrace.client.explanations import Explanation, Job, Progress
from headrace.errors import (
    DeadlineExceeded,
    HeadraceError,
    InvalidRequest,
    LoadFailed,
    ModelNotFound,
    ModelNotReady,
    NotFound,
    NotSupported,
    Overloaded,
    RuntimeFailed,
    Temporary,
    TooLarge,
    Unreachable,
    UnsupportedEncoding,
)
from headrace.payload import EMPTY, InferenceRequest, InferenceResponse, Parameters, RequestedOutput, TensorSpec

_IDLE_KEPT: Final = 16
"""Idle connections kept for the next calls; more are closed."""


_FIRST_LOOK_SECONDS: Final = 0.1  # at a job; later ones are rarer
_LAST_LOOK_SECONDS: Final = 1.0


class IndexEntry(msgspec.Struct, frozen=True):
    """One version of one model as the server's repository index shows it."""

    name: str
    version: str = ""
    state: str = ""
    """READY, LOADING, UNLOADING, UNAVAILABLE or UNKNOWN."""
    reason: str = ""
    """Why it is not READY."""


class ModelMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """What a model says of itself."""

    name: str
    versions: tuple[str, ...] = ()
    platform: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    properties: Mapping[str, Any] = EMPTY
    """Engine by rows, parity figures, placement, warnings: as the server shows them."""


class _WireSpec(msgspec.Struct):
    name: str
    datatype: str
    shape: tuple[int, ...] = ()
    parameters: dict[str, Any] | None = None


class _WireMetadata(msgspec.Struct):
    name: str
    versions: tuple[str, ...] | None = None
    platform: str | None = None
    inputs: tuple[_WireSpec, ...] | None = None
    outputs: tuple[_WireSpec, ...] | None = None
    properties: dict[str, Any] | None = None


class _WireEntry(msgspec.Struct):
    name: str
    version: str | None = None
    state: str | None = None
    reason: str | None = None


class Client:
    """Talks to one server. May be used from several threads at once; connections are kept open between calls.

    Example:
        >>> client = Client("http://localhost:8080")  # doctest: +SKIP
        >>> client.predict([[5.1, 3.5, 1.4, 0.2]], model="iris")  # doctest: +SKIP
        array([0])

    Args:
        url: `http://host:port`, with a path when an ingress adds one; `host:port` alone is taken for HTTP.
        model: The model that calls mean when they name none. Empty: the server's only one.
        timeout_seconds: How long one call may wait for the server.
        headers: Sent with every call, for example an authorization.
        binary: Whether tensors travel as bytes (fast). False for servers without the binary tensor extension.
        tls: For HTTPS, in place of the system's default context.
    """

    def __init__(
        self,
        url: str = "http://localhost:8080",
        *,
        model: str = "",
        timeout_seconds: float = 60.0,
        headers: Mapping[str, str] = MappingProxyType({}),
        binary: bool = True,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        parts = address_of(url)
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self.model = model
        self._parts, self._prefix = parts, parts.path.rstrip("/")
        self._timeout, self._headers, self._binary, self._tls = timeout_seconds, dict(headers), binary, tls
        self._idle: deque[http.client.HTTPConnection] = deque()
        self._known: dict[tuple[str, str], ModelMetadata] = {}

    def __repr__(self) -> str:
        return f"Client({self.url!r}{f', model={self.model!r}' if self.model else ''})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- inference --

    def predict(
        self,
        values: Any,
        *,
        model: str = "",
        version: str = "",
        outputs: Sequence[str] | None = None,
        parameters: Parameters | None = None,
        named: bool = False,
    ) -> Any:
        """The model's answer for a batch of rows.

        Args:
            values: An array or nested list for a model of one input; a DataFrame, matched by column where the model has
                an input per column; a mapping of input name to array otherwise. Numbers are cast to the declared
                datatype.
            model: Its name; empty: the client's model, or the server's only one.
            version: Empty: the default version.
            outputs: Names wanted; None: the model's default ones.
            parameters: Request parameters: text, numbers, booleans.
            named: Arrays by name even when there is only one.

        Returns:
            The array of a single output (`Array`), or arrays by name (`dict[str, Array]`) when there are several. BYTES
            come as text where all of it is UTF-8, else as bytes; `infer` gives the bytes in any case.

        Raises:
            InvalidRequest: the server, or the model's declared inputs, refuse the values.
            ModelNotFound: no such model or version.
            Temporary: not ready, overloaded, too late or unreachable; the same call may succeed later.
            RuntimeFailed: the model itself failed.
        """
        name = model or self.model or self._only_model()
        kept = self._known.get((name, version))
        request = InferenceRequest(
            model_name=name,
            model_version=version,
            inputs=(),
            outputs=tuple(RequestedOutput(output) for output in outputs or ()),
            parameters=parameters or EMPTY,
        )
        try:
            response = self.infer(_filled(request, values, kept or self._refresh(name, version)))
        except InvalidRequest:
            # The model may have been replaced by one with other inputs since its metadata was kept.
            if kept is None or self._refresh(name, version) == kept:
                raise
            response = self.infer(_filled(request, values, self._known[name, version]))
        arrays = {tensor.name: tensors.array_of(tensor) for tensor in response.outputs}
        return next(iter(arrays.values())) if len(arrays) == 1 and not named else arrays

    def infer(self, request: InferenceRequest) -> InferenceResponse:
        """The response to a request as it is, with its id, parameters and tensors. Raises as `predict` does."""
        body, header_length = tensors.render(request, binary=self._binary)
        headers = {"Content-Type": "application/json"}
        if header_length is not None:
            headers = {
                "Content-Type": "application/octet-stream",
                "Inference-Header-Content-Length": str(header_length),
            }
        path = model_path(request.model_name, request.model_version) + "/infer"
        answer, came = self._call("POST", path, body, headers | dict(request.headers))
        length = came.get("inference-header-content-length")
        return tensors.parse(answer, None if length is None else int(length))

    def invoke(
        self, body: bytes, *, model: str = "", version: str = "", content_type: str = "application/json"
    ) -> bytearray:
        """Ask a model by MLflow's scoring protocol (`/invocations`), and get the body of the answer as it is.

        Args:
            body: `{"dataframe_split": ...}` and its like, or CSV.
            model: As of `predict`.
            version: As of `predict`.
            content_type: What the body is.

        Raises:
            ModelNotFound: no such model or version.
            InvalidRequest: the server refuses the body.
            Temporary: not ready, overloaded, too late or unreachable.
            RuntimeFailed: the model failed.
        """
        name = model or self.model or self._only_model()
        answer, _ = self._call("POST", model_path(name, version) + "/invocations", body, {"Content-Type": content_type})
        return answer

    # -- why --

    def explain(
        self,
        values: Any,
        *,
        model: str = "",
        version: str = "",
        explainer: str = "",
        options: Mapping[str, Any] | None = None,
        deadline_seconds: float | None = None,
        max_rows: int | None = None,
        rows: Sequence[int] | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> tuple[Explanation, ...]:
        """Ask a model why it answers what it answers to each row.

        Args:
            values: As of `predict`.
            model: As of `predict`.
            version: As of `predict`.
            explainer: Which of the model's, or a method by its name; empty: the model's first.
            options: Of the method.
            deadline_seconds: The best explanation by then is the answer; None: the model's trust folder says.
            max_rows: Of the model, for one explained row; None: the folder says.
            rows: Positions of the rows to explain; None: all.
            progress: Called now and then with how far it is. With it, the explanation is a job of the server's, which
                may take longer than one call.

        Raises:
            ModelNotFound: no such model or version, or it has no explainer.
            InvalidRequest: no such explainer, option or row, or the server refuses the values.
            Temporary: not ready, overloaded, too late or unreachable.
            RuntimeFailed: the model or the explainer failed.
        """
        name, asked = self._asked(
            values,
            model,
            version,
            explanations.parameters(
                explainer=explainer,
                options=options,
                deadline_seconds=deadline_seconds,
                max_rows=max_rows,
                rows=rows,
                is_job=progress is not None,
            ),
        )
        body, _ = self._send_explain(asked)
        if progress is None:
            return _decode(body, explanations.Answer).explanations  # type: ignore[no-any-return]  # what it decodes to
        return self._followed(_decode(body, explanations.Job), model_path(name, version), progress)

    def picture(
        self,
        values: Any,
        *,
        format: Literal["svg", "png"] = "svg",  # noqa: A002 - as the protocol calls it
        model: str = "",
        version: str = "",
        explainer: str = "",
        options: Mapping[str, Any] | None = None,
        deadline_seconds: float | None = None,
        max_rows: int | None = None,
        row: int = 0,
    ) -> bytes:
        """The explanation of one row as a picture. Arguments and errors as of `explain`."""
        wanted = explanations.parameters(
            explainer=explainer,
            options=options,
            deadline_seconds=deadline_seconds,
            max_rows=max_rows,
            rows=[row],
            form=format,
        )
        _, asked = self._asked(values, model, version, wanted)
        body, _ = self._send_explain(asked)
        return bytes(body)

    def _asked(
        self, values: Any, model: str, version: str, parameters: Mapping[str, Any]
    ) -> tuple[str, InferenceRequest]:
        name = model or self.model or self._only_model()
        request = InferenceRequest(model_name=name, model_version=version, inputs=(), parameters=parameters)
        return name, _filled(request, values, self._known.get((name, version)) or self._refresh(name, version))

    def _send_explain(self, request: InferenceRequest) -> tuple[bytearray, Mapping[str, str]]:
        body, length = tensors.render(request, binary=self._binary)
        headers = {"Content-Type": "application/json"}
        if length is not None:
            headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(length)}
        return self._call("POST", model_path(request.model_name, request.model_version) + "/explain", body, headers)

    def _followed(self, job: Job, base: str, progress: Callable[[Progress], None]) -> tuple[Explanation, ...]:
        """Look after a job until it ends; it ends with whoever is not interested any more."""
        path, wait = f"{base}/explain/jobs/{quote(job.id, safe='')}", _FIRST_LOOK_SECONDS
        try:
            while job.state in {"queued", "running"}:
                progress(job.told())
                time.sleep(wait)
                wait = min(_LAST_LOOK_SECONDS, wait * 1.5)
                body, _ = self._call("GET", path)
                job = _decode(body, explanations.Job)
        except BaseException:
            with contextlib.suppress(HeadraceError):
                self._call("DELETE", path)
            raise
        if job.result is None:
            raise RuntimeFailed(job.error or f"the explanation was {job.state}")
        return job.result.explanations

    # -- what there is --

    def ready(self, model: str = "", *, version: str = "") -> bool:
        """Whether the model is ready; with no name, whether every model the server wants is.

        Raises:
            ModelNotFound: no such model or version.
            Unreachable: no server answers.
        """
        path = f"{model_path(model, version)}/ready" if model else "/v2/health/ready"
        try:
            self._call("GET", path)
        except Unreachable:
            raise
        except (Temporary, InvalidRequest):  # 503 here; 400 from servers of the Triton kind
            return False
        return True

    def models(self) -> list[IndexEntry]:
        """Every model version the server knows, in any state."""
        body, _ = self._call("POST", "/v2/repository/index", b"{}", {"Content-Type": "application/json"})
        entries = _decode(body, list[_WireEntry])
        return [IndexEntry(e.name, e.version or "", e.state or "", e.reason or "") for e in entries]

    def metadata(self, model: str = "", *, version: str = "") -> ModelMetadata:
        """What a model says of itself: inputs, outputs, platform, engine.

        Raises:
            ModelNotFound: no such model or version.
            ModelNotReady: it is known, but cannot say while it is not loaded; the text carries the reason.
        """
        return self._refresh(model or self.model or self._only_model(), version)

    def trust_status(self, model: str = "", *, version: str = "") -> dict[str, Any]:
        """What the detectors of a model say now: `state`, `rows`, `detectors` and more, as the server tells it.

        Raises:
            NotFound: no such model or version, or nothing watches it; the text says which.
        """
        body, _ = self._call("GET", model_path(model or self.model or self._only_model(), version) + "/trust")
        status: dict[str, Any] = _decode(body, dict[str, Any])
        return status

    def trust_report(self, model: str = "", *, version: str = "") -> bytes:
        """The same as one page of HTML that needs nothing else.

        Raises:
            NotFound: as of `trust_status`.
            ModelNotReady: the server cannot draw it now; the text says why.
        """
        body, _ = self._call("GET", model_path(model or self.model or self._only_model(), version) + "/trust/report")
        return bytes(body)

    def load(self, model: str) -> None:
        """Load or reload a model of the server's repository, and wait until it serves.

        Raises:
            LoadFailed: it cannot be loaded; the text says why.
            ModelNotFound: the repository has no such model.
        """
        self._control("load", model)

    def unload(self, model: str) -> None:
        """Take a model out of service. Raises ModelNotFound for one that the server does not know."""
        self._control("unload", model)

    def close(self) -> None:
        """Close the connections that stand idle. The client may still be used."""
        while self._idle:
            self._idle.pop().close()

    # -- steps --

    def _only_model(self) -> str:
        names = sorted({entry.name for entry in self.models()})
        if len(names) == 1:
            return names[0]
        raise InvalidRequest(f"name a model: the server has {', '.join(names) if names else 'none'}")

    def _refresh(self, model: str, version: str) -> ModelMetadata:
        body, _ = self._call("GET", model_path(model, version))
        metadata = metadata_of(body)
        self._known[model, version] = metadata
        return metadata

    def _control(self, verb: str, model: str) -> None:
        self._known = {key: value for key, value in self._known.items() if key[0] != model}
        try:
            self._call("POST", f"/v2/repository/models/{quote(model, safe='')}/{verb}", b"{}")
        except (RuntimeFailed, InvalidRequest) as exc:
            raise LoadFailed(str(exc)) from exc

    def _call(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = MappingProxyType({})
    ) -> tuple[bytearray, Mapping[str, str]]:
        """One exchange. A kept connection that the server closed meanwhile is replaced by a new one, once."""
        try:
            connection, fresh = self._idle.pop(), False
        except IndexError:
            connection, fresh = self._connect(), True
        try:
            try:
                response = self._send(connection, method, path, body, headers)
            except (http.client.RemoteDisconnected, ConnectionError):
                connection.close()
                if fresh:
                    raise
                connection = self._connect()
                response = self._send(connection, method, path, body, headers)
            answer = _read(response)
        except TimeoutError as exc:
            connection.close()
            raise DeadlineExceeded(f"{self.url} did not answer within {self._timeout:g} seconds") from exc
        except ssl.SSLCertVerificationError as exc:
            connection.close()
            raise Unreachable(
                f"do not trust the server at {self.url}: {exc.verify_message}; "
                "name its certificate, or that of who signed it, by the environment variable SSL_CERT_FILE"
            ) from exc
        except (OSError, http.client.HTTPException) as exc:
            connection.close()
            text = str(exc) or type(exc).__name__
            if type(exc) is http.client.BadStatusLine:
                text = "what answers there does not speak HTTP/1.1, as the gRPC port does not"
            raise Unreachable(f"cannot reach a server at {self.url}: {text}; is it running?") from exc
        except BaseException:
            connection.close()  # an answer half read would be taken for the next call's
            raise
        if response.will_close or len(self._idle) >= _IDLE_KEPT:
            connection.close()
        else:
            self._idle.append(connection)
        came = {name.lower(): value for name, value in response.getheaders()}
        if response.status >= 400:
            raise error_of(response.status, answer, came, path)
        return answer, came

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=self._timeout, context=self._tls)
        return http.client.HTTPConnection(host, port, timeout=self._timeout)

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
    ) -> http.client.HTTPResponse:
        connection.request(method, self._prefix + path, body=body or None, headers={**self._headers, **headers})
        return connection.getresponse()


def _filled(request: InferenceRequest, values: Any, metadata: ModelMetadata) -> InferenceRequest:
    """The request with the values as the model's inputs."""
    inputs, own = tensors.tensors_of(values, metadata.inputs)
    return msgspec.structs.replace(request, inputs=inputs, parameters={**own, **request.parameters})


def _read(response: http.client.HTTPResponse) -> bytearray:
    """The body, into memory that may be written to, so that arrays may be views of it.

    The response is closed here: an interrupt that comes while the interpreter clears it away is lost in silence.
    """
    with response:
        if response.length is None:
            return bytearray(response.read())
        body = bytearray(response.length)
        view, position = memoryview(body), 0
        while position < len(body):
            count = response.readinto(view[position:])
            if not count:
                raise http.client.IncompleteRead(bytes(body[:position]), len(body) - position)
            position += count
        response.read()  # marks the response as ended, so that the connection can be used again
        return body


def address_of(url: str) -> SplitResult:
    """The parts of a server's address; `host:port` alone is taken for HTTP.

    Raises:
        InvalidRequest: it is not an address.
    """
    wrong = InvalidRequest(f"expected a server's address such as http://localhost:8080, got {url!r}")
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError as exc:  # of a port that is none
        raise wrong from exc
    if not usable:
        raise wrong
    return parts


def model_path(model: str, version: str) -> str:
    """The route of a model, or of one version of it."""
    path = f"/v2/models/{quote(model, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


def metadata_of(body: bytes | bytearray) -> ModelMetadata:
    """What a model's metadata says.

    Raises:
        RuntimeFailed: the body is none.
    """
    wire = _decode(body, _WireMetadata)
    return ModelMetadata(
        name=wire.name,
        versions=wire.versions or (),
        platform=wire.platform or "",
        inputs=_specs(wire.inputs),
        outputs=_specs(wire.outputs),
        properties=wire.properties or {},
    )


def _specs(wire: tuple[_WireSpec, ...] | None) -> tuple[TensorSpec, ...]:
    found = []
    for each in wire or ():
        parameters = each.parameters or {}
        found.append(
            TensorSpec(
                name=each.name,
                datatype=each.datatype,
                shape=each.shape,
                content_type=str(parameters.get("content_type") or ""),
                optional=bool(parameters.get("optional", False)),
            )
        )
    return tuple(found)


def _decode(body: bytes | bytearray, kind: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as exc:
        raise RuntimeFailed(f"the server's answer is not what the protocol says: {exc}") from exc


_BY_STATUS: Final[Mapping[int, type[HeadraceError]]] = MappingProxyType(
    {
        400: InvalidRequest,
        404: NotFound,
        405: NotSupported,
        408: DeadlineExceeded,
        413: TooLarge,
        415: UnsupportedEncoding,
        422: InvalidRequest,
        429: Overloaded,
        431: TooLarge,
        501: NotSupported,
        502: Unreachable,
        503: ModelNotReady,
        504: DeadlineExceeded,
    }
)


def error_of(status: int, body: bytes | bytearray, headers: Mapping[str, str], path: str) -> HeadraceError:
    """Our error for a status, with the server's own text."""
    text = error_text(body) or f"HTTP status {status}"
    if status in {429, 503} and "retry-after" in headers:
        after = headers["retry-after"]
        return Overloaded(text, retry_after_seconds=float(after) if after.isdecimal() else 1.0)
    if status == 404 and "/models/" in path:
        return ModelNotFound(text)
    kind = _BY_STATUS.get(status, InvalidRequest if status < 500 else RuntimeFailed)
    return kind(text)


def error_text(body: bytes | bytearray) -> str:
    """What a server says in the body of an error: its `error`, `detail` or `message`, else the first of the text."""
    try:
        content = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        return " ".join(body[:500].decode("utf-8", "replace").split())
    if isinstance(content, dict):
        return str(content.get("error") or content.get("detail") or content.get("message") or content)
    return str(content)
