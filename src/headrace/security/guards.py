"""Detectors on the path: they look at rows before the model answers, and flag or refuse those that are odd.

Off the path is the rule (`monitoring.watch`); a detector stands here when its entry in the trust folder says `guard`.
It runs in a thread, so that other callers' requests go on meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import numpy as np

from headrace.detectors.base import Adversarial, Outlier, Predict
from headrace.errors import DeadlineExceeded, InvalidRequest, Refused
from headrace.payload import Array, Infer, InferenceRequest, InferenceResponse
from headrace.security.validation import flag
from headrace.trust.rows import Rows
from headrace.trust.spec import DetectorSpec

_ASK_SECONDS: Final = 30.0


def guarded(
    infer: Infer,
    rows: Rows,
    spec: DetectorSpec,
    detector: Outlier | Adversarial,
    counts: dict[str, int],
    *,
    predict: Callable[[], Predict] | None = None,
) -> Infer:
    """The same `Infer`, behind a detector of rows.

    Args:
        infer: The model.
        rows: How its requests become rows.
        spec: The detector's entry, with its threshold; its `guard` is `flag` or `reject`.
        detector: Itself; it does not learn from what it sees here.
        counts: Written to: `flagged` and `refused` requests.
        predict: Makes what an adversarial detector asks the model through, called on the loop.
    """
    threshold = spec.threshold if spec.threshold is not None else np.inf

    async def answer(request: InferenceRequest) -> InferenceResponse:
        x = rows.matrix(request.inputs)
        if isinstance(detector, Adversarial):
            assert predict is not None
            scores = await asyncio.to_thread(detector.score, x, predict())
        else:
            scores = await asyncio.to_thread(detector.score, x)
        odd = np.flatnonzero(scores.instance > threshold)
        if not len(odd):
            return await infer(request)
        worst = float(scores.instance.max())
        named = ",".join(map(str, odd[:20])) + (",..." if len(odd) > 20 else "")
        if spec.guard == "reject":
            counts["refused"] = counts.get("refused", 0) + 1
            raise Refused(
                f"model '{request.model_name}': {spec.name} takes {len(odd)} of {len(x)} rows (row {named}) for "
                f"{'adversarial' if spec.kind == 'adversarial' else 'outliers'}: the largest score is {worst:.4g}, the "
                f"threshold {threshold:.4g}"
            )
        counts["flagged"] = counts.get("flagged", 0) + 1
        parameters = {f"{spec.name}_rows": named, f"{spec.name}_score": worst, f"{spec.name}_threshold": threshold}
        return flag(await infer(request), parameters, {f"headrace-{spec.kind}": f"{spec.name} rows={named}"})

    return answer


def predictor(rows: Rows, ask: Infer, *, model: str) -> Predict:
    """The model as a function that a thread may call. Called on the loop that answers it."""
    loop = asyncio.get_running_loop()

    def predict(x: Array) -> Array:
        request = InferenceRequest(
            model_name=model, inputs=rows.tensors(x), outputs=rows.requested(), headers={"headrace-internal": "guard"}
        )
        future = asyncio.run_coroutine_threadsafe(_answer(ask, request), loop)
        try:
            answers = rows.answers(future.result(_ASK_SECONDS).outputs)
        except TimeoutError:
            future.cancel()
            raise DeadlineExceeded(f"model '{model}' did not answer its detector in {_ASK_SECONDS:g} s") from None
        if answers is None:
            raise InvalidRequest(f"model '{model}' answers no probabilities or numbers, which its detector needs")
        return answers

    return predict


async def _answer(ask: Infer, request: InferenceRequest) -> InferenceResponse:
    return await ask(request)
