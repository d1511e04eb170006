"""Every REST path, once: the OpenAPI document is built from it, and a test holds the server's dispatch to it."""

from __future__ import annotations

from typing import Final

import msgspec


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One operation of the REST surface."""

    method: str
    path: str
    """Variable parts stand in braces, as in OpenAPI."""
    tag: str
    summary: str
    request: str = ""
    """Schema of the JSON body; empty: none."""
    response: str = ""
    """Schema of the JSON answer; empty: not JSON."""
    media: str = "application/json"
    """Of the answer."""
    errors: tuple[int, ...] = ()
    error: str = "Error"
    """Schema of their bodies."""


_INFER_ERRORS: Final = (400, 404, 413, 415, 500, 503, 504)


def _of_model(base: str, which: str) -> tuple[Route, ...]:
    """What a model and each of its versions answer alike."""
    return (
        Route(
            method="GET",
            path=base,
            tag="models",
            summary=f"What {which} is: inputs, outputs, platform",
            response="ModelMetadata",
            errors=(404, 503),
        ),
        Route(
            method="GET",
            path=f"{base}/ready",
            tag="models",
            summary=f"Whether {which} is ready",
            response="ModelReady",
            errors=(404, 503),
        ),
        Route(
            method="POST",
            path=f"{base}/infer",
            tag="inference",
            summary=f"Ask {which}",
            request="InferenceRequest",
            response="InferenceResponse",
            errors=_INFER_ERRORS,
        ),
        Route(
            method="POST",
            path=f"{base}/infer_stream",
            tag="inference",
            summary=f"Ask {which} for a stream of answers: server-sent events, each data an InferenceResponse",
            request="InferenceRequest",
            media="text/event-stream",
            errors=_INFER_ERRORS,
        ),
        Route(
            method="POST",
            path=f"{base}/invocations",
            tag="MLflow",
            summary=f"Ask {which} by MLflow's scoring protocol: JSON, CSV, JSON lines, numpy",
            request="Invocation",
            response="PredictResponse",
            errors=_INFER_ERRORS,
        ),
        Route(
            method="GET",
            path=f"{base}/config",
            tag="models",
            summary=f"The configuration of {which}, in Triton's terms",
            response="ModelConfig",
            errors=(404, 503),
        ),
        Route(
            method="GET",
            path=f"{base}/stats",
            tag="models",
            summary=f"What {which} has done so far",
            response="Statistics",
            errors=(404,),
        ),
        Route(
            method="POST",
            path=f"{base}/explain",
            tag="trust",
            summary=f"Ask {which} why it answers what it answers; as JSON, text or a picture, now or as a job (202)",
            request="ExplainRequest",
            response="Explanations",
            errors=_INFER_ERRORS,
        ),
        Route(
            method="GET",
            path=f"{base}/explain/jobs/{{job}}",
            tag="trust",
            summary="How far the job of an explanation is; its answer, once it is done",
            response="ExplainJob",
            errors=(404,),
        ),
        Route(
            method="DELETE",
            path=f"{base}/explain/jobs/{{job}}",
            tag="trust",
            summary="End the job of an explanation and forget it",
            response="ExplainJob",
            errors=(404,),
        ),
        Route(
            method="GET",
            path=f"{base}/trust",
            tag="trust",
            summary=f"What watches {which}, and what it says: outliers, drift, performance, bias",
            response="Any",
            errors=(404, 503),
        ),
        Route(
            method="GET",
            path=f"{base}/trust/report",
            tag="trust",
            summary="The same as a page",
            media="text/html",
            errors=(404, 503),
        ),
        Route(
            method="POST",
            path=f"{base}/feedback",
            tag="trust",
            summary=f"Tell what was true of rows that {which} answered, by the id of the request",
            request="Labels",
            response="LabelsTaken",
            errors=(400, 404, 413, 501, 503),
        ),
        Route(
            method="GET",
            path=f"{base}/docs",
            tag="documents",
            summary=f"This page, for {which} alone",
            media="text/html",
            errors=(404,),
        ),
        Route(
            method="GET",
            path=f"{base}/docs/dataplane.json",
            tag="documents",
            summary=f"This document, for {which} alone",
            response="Any",
            errors=(404,),
        ),
    )


def _of_v1(base: str, which: str) -> tuple[Route, ...]:
    return (
        Route(
            method="GET",
            path=base,
            tag="V1",
            summary=f"Whether {which} is ready",
            response="ModelReady",
            errors=(404, 503),
        ),
        Route(
            method="POST",
            path=f"{base}:predict",
            tag="V1",
            summary=f"Ask {which}",
            request="PredictRequest",
            response="PredictResponse",
            errors=_INFER_ERRORS,
        ),
        Route(
            method="POST",
            path=f"{base}:explain",
            tag="V1",
            summary=f"Ask {which} why, where it has an explainer",
            request="PredictRequest",
            response="ExplanationsV1",
            errors=_INFER_ERRORS,
        ),
    )


def _of_made(kind: str) -> tuple[Route, ...]:
    """What pipelines and experiments answer alike."""
    base, which = f"/v2/{kind}s/{{{kind}}}", f"{'an' if kind == 'experiment' else 'a'} {kind}"
    return (
        Route(
            method="GET",
            path=f"/v2/{kind}s",
            tag=f"{kind}s",
            summary=f"The names of all {kind}s",
            response=f"{kind.capitalize()}s",
        ),
        Route(
            method="GET",
            path=base,
            tag=f"{kind}s",
            summary=f"What {which} is: inputs and outputs",
            response="ModelMetadata",
            errors=(404, 503),
        ),
        Route(
            method="GET",
            path=f"{base}/ready",
            tag=f"{kind}s",
            summary=f"Whether {which} is ready; 424 says what it waits for",
            response="ModelReady",
            errors=(404, 424),
        ),
        Route(
            method="POST",
            path=f"{base}/infer",
            tag=f"{kind}s",
            summary=f"Ask {which}",
            request="InferenceRequest",
            response="InferenceResponse",
            errors=_INFER_ERRORS,
        ),
        Route(
            method="POST",
            path=f"{base}/infer_stream",
            tag=f"{kind}s",
            summary=f"Ask {which} for a stream of answers: server-sent events, each data an InferenceResponse",
            request="InferenceRequest",
            media="text/event-stream",
            errors=_INFER_ERRORS,
        ),
    )


def _of_seldon(base: str, which: str) -> tuple[Route, ...]:
    """Seldon Core v1's protocol."""
    return (
        Route(
            method="POST",
            path=f"{base}/predictions",
            tag="Seldon Core v1",
            summary=f"Ask {which}",
            request="SeldonMessage",
            response="SeldonMessage",
            errors=_INFER_ERRORS,
            error="SeldonMessage",
        ),
        Route(
            method="POST",
            path=f"{base}/feedback",
            tag="Seldon Core v1",
            summary=f"Tell the routers of {which} what came of an answer",
            request="SeldonFeedback",
            response="SeldonMessage",
            errors=(400, 404, 501, 503),
            error="SeldonMessage",
        ),
        Route(
            method="GET",
            path=f"{base}/status",
            tag="Seldon Core v1",
            summary=f"Whether {which} is ready",
            response="SeldonMessage",
            errors=(404, 503),
            error="SeldonMessage",
        ),
        Route(
            method="GET",
            path=f"{base}/metadata",
            tag="Seldon Core v1",
            summary=f"What {which} takes and gives",
            response="Any",
            errors=(404,),
            error="SeldonMessage",
        ),
        Route(
            method="GET",
            path=f"{base}/metadata/{{model}}",
            tag="Seldon Core v1",
            summary="What a model takes and gives",
            response="Any",
            errors=(404,),
            error="SeldonMessage",
        ),
    )


_DEPLOYMENT: Final = "/seldon/{namespace}/{deployment}"
_DEPLOYED: Final[tuple[Route, ...]] = (
    *_of_seldon("/api/v1.0", "the one graph or endpoint there is"),
    *_of_seldon(f"{_DEPLOYMENT}/api/v1.0", "a deployment"),
    Route(
        method="POST",
        path=f"{_DEPLOYMENT}/v2/models/{{model}}/infer",
        tag="Seldon Core v1",
        summary="Ask a deployment, whatever its model is called",
        request="InferenceRequest",
        response="InferenceResponse",
        errors=_INFER_ERRORS,
    ),
    Route(
        method="POST",
        path=f"{_DEPLOYMENT}/v2/models/{{model}}/infer_stream",
        tag="Seldon Core v1",
        summary="Ask a deployment for a stream of answers",
        request="InferenceRequest",
        media="text/event-stream",
        errors=_INFER_ERRORS,
    ),
    Route(
        method="GET",
        path=f"{_DEPLOYMENT}/v2/models/{{model}}/ready",
        tag="Seldon Core v1",
        summary="Whether a model of a deployment is ready",
        response="ModelReady",
        errors=(404, 424, 503),
    ),
    Route(
        method="GET",
        path=f"{_DEPLOYMENT}/v2/models/{{model}}",
        tag="Seldon Core v1",
        summary="What a model of a deployment is",
        response="ModelMetadata",
        errors=(404, 503),
    ),
    Route(
        method="POST",
        path=f"{_DEPLOYMENT}/v1/models/{{model}}:predict",
        tag="Seldon Core v1",
        summary="Ask a deployment, whatever its model is called",
        request="PredictRequest",
        response="PredictResponse",
        errors=_INFER_ERRORS,
    ),
    Route(
        method="POST",
        path=f"{_DEPLOYMENT}-explainer/{{predictor}}/api/v1.0/explain",
        tag="Seldon Core v1",
        summary="Ask a deployment's explainer why its predictor answers as it does",
        request="SeldonMessage",
        response="Any",
        errors=_INFER_ERRORS,
        error="SeldonMessage",
    ),
    Route(
        method="POST",
        path=f"{_DEPLOYMENT}-explainer/{{predictor}}/v1/models/{{model}}:explain",
        tag="Seldon Core v1",
        summary="The same, by V1",
        request="PredictRequest",
        response="Any",
        errors=_INFER_ERRORS,
    ),
    Route(
        method="POST",
        path=f"{_DEPLOYMENT}-explainer/{{predictor}}/v2/models/{{model}}/explain",
        tag="Seldon Core v1",
        summary="The same, by V2",
        request="ExplainRequest",
        response="Any",
        errors=_INFER_ERRORS,
    ),
    Route(
        method="POST",
        path=f"{_DEPLOYMENT}-explainer/{{predictor}}/v2/models/{{model}}/infer",
        tag="Seldon Core v1",
        summary="The same as an output `explanation`, as MLServer's explainers answer it",
        request="InferenceRequest",
        response="InferenceResponse",
        errors=_INFER_ERRORS,
    ),
)

SCORING: Final[tuple[Route, ...]] = (
    Route(
        method="POST",
        path="/invocations",
        tag="MLflow",
        summary="Ask the one model there is, or ?model=NAME, as MLflow and SageMaker do: JSON, CSV, JSON lines, numpy",
        request="Invocation",
        response="PredictResponse",
        errors=_INFER_ERRORS,
    ),
    *(
        Route(method="GET", path=path, tag="MLflow", summary=summary, media="text/plain", errors=errors)
        for path, summary, errors in (
            ("/ping", "Whether the server is ready, for MLflow's clients and SageMaker", (503,)),
            ("/health", "The same", (503,)),
            ("/version", "MLflow's version where a model of its is loaded, else the server's", ()),
        )
    ),
)
"""The container contract of MLflow and SageMaker; where MLServer's answers count, there while an MLflow model is."""

ROUTES: Final[tuple[Route, ...]] = (
    *_of_model("/v2/models/{model}", "a model"),
    *_of_model("/v2/models/{model}/versions/{version}", "one version of a model"),
    *_of_v1("/v1/models/{model}", "a model"),
    *_of_v1("/v1/models/{model}/versions/{version}", "one version of a model"),
    *_of_made("pipeline"),
    Route(
        method="POST",
        path="/v2/pipelines/{pipeline}/feedback",
        tag="pipelines",
        summary="Tell a pipeline's routers what came of an answer",
        request="Feedback",
        response="FeedbackTaken",
        errors=(400, 404, 501, 503),
    ),
    Route(
        method="GET",
        path="/v2/pipelines/{pipeline}/results/{request}",
        tag="pipelines",
        summary="What a durable pipeline answered to a request, by its id; 202 while it is pending",
        response="InferenceResponse",
        errors=(400, 404, 500, 501, 503),
    ),
    *_of_made("experiment"),
    *_DEPLOYED,
    Route(method="GET", path="/v1/models", tag="V1", summary="The names of all models", response="Models"),
    Route(method="GET", path="/v2/models", tag="models", summary="The names of all models", response="Models"),
    Route(
        method="GET",
        path="/v2/models/stats",
        tag="models",
        summary="What every model has done so far",
        response="Statistics",
    ),
    Route(
        method="POST",
        path="/v2/repository/index",
        tag="repository",
        summary="Every version of every model with its state, and the reason where it is not ready",
        request="IndexRequest",
        response="Index",
        errors=(400,),
    ),
    Route(
        method="POST",
        path="/v2/repository/models/{model}/load",
        tag="repository",
        summary="Load a model, or load it anew; the old one answers until the new one is ready",
        request="LoadRequest",
        response="Any",
        errors=(400, 404, 500, 501),
    ),
    Route(
        method="POST",
        path="/v2/repository/models/{model}/unload",
        tag="repository",
        summary="Take a model out of service",
        request="UnloadRequest",
        response="Any",
        errors=(400, 404, 501),
    ),
    Route(method="GET", path="/v2", tag="server", summary="What this server is", response="ServerMetadata"),
    Route(method="GET", path="/v2/health/live", tag="server", summary="Whether the server runs", response="Live"),
    Route(
        method="GET",
        path="/v2/health/ready",
        tag="server",
        summary="Whether every wanted model is loaded",
        response="Ready",
        errors=(503,),
    ),
    Route(method="GET", path="/", tag="server", summary="Whether the server runs, for V1 clients", response="Alive"),
    Route(method="GET", path="/openapi.json", tag="documents", summary="This document", response="Any"),
    Route(method="GET", path="/docs", tag="documents", summary="This page", media="text/html"),
)
"""The whole REST surface.

`/v2/docs` and `/v2/docs/dataplane.json` are other names of the last two, `generate` and `generate_stream` MLServer's
other names of `infer` and `infer_stream`, `/api/v0.1` is Seldon's older name of `/api/v1.0`. Hosts of graphs (KServe's
InferenceGraph) answer POST at any other path. Routes of the models' own are added as models come and go, and `SCORING`
where it is answered.
"""
