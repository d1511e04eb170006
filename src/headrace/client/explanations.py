"""Explanations as a client has them: what is asked for as request parameters, and answers and jobs as values.
`client.http` calls it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from headrace.payload import EMPTY


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a model answers what it answers."""

    data: Mapping[str, Any]
    """The method's own: of anchors `anchor`, `precision`, `coverage`; of Shapley values `shap_values`, ..."""
    text: str
    """For a person."""
    meta: Mapping[str, Any] = EMPTY
    """`name` (the method), `type`, `explanations`, `params`, `version`."""
    complete: bool = True
    """False: the budget was spent first, and this is the best there was."""
    warnings: tuple[str, ...] = ()
    row: int = -1
    """Its position in the request; -1: it speaks of the model as a whole."""
    model_rows: int = 0
    """That the model was asked for."""
    seconds: float = 0.0


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a job is."""

    state: Literal["queued", "running", "done", "failed", "cancelled"] = "queued"
    explained: int = 0
    of: int = 0
    """0: not known yet."""
    model_rows: int = 0
    seconds: float = 0.0


class Answer(msgspec.Struct, frozen=True):
    """The machine form."""

    explanations: tuple[Explanation, ...]


class _Counts(msgspec.Struct):
    explained: int = 0
    of: int = 0
    model_rows: int = 0


class Job(msgspec.Struct, frozen=True):
    """A job as the server tells of it."""

    id: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    location: str
    progress: _Counts
    seconds: float = 0.0
    error: str = ""
    result: Answer | None = None

    def told(self) -> Progress:
        """For who looks on."""
        counts = self.progress
        return Progress(
            state=self.state,
            explained=counts.explained,
            of=counts.of,
            model_rows=counts.model_rows,
            seconds=self.seconds,
        )


def parameters(
    *,
    explainer: str,
    options: Mapping[str, Any] | None,
    deadline_seconds: float | None,
    max_rows: int | None,
    rows: Sequence[int] | None,
    form: str = "",
    is_job: bool = False,
) -> dict[str, Any]:
    """What is asked for, as parameters of the request."""
    found: dict[str, Any] = {}
    if explainer:
        found["explainer"] = explainer
    if options:
        found["explain_parameters"] = dict(options)
    if deadline_seconds is not None:
        found["deadline_ms"] = deadline_seconds * 1000
    if max_rows is not None:
        found["max_rows"] = max_rows
    if rows is not None:
        found["rows"] = list(rows)
    if form:
        found["format"] = form
    if is_job:
        found["mode"] = "job"
    return found
