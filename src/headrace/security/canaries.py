"""Canary inputs: rows whose answers were recorded when the trust folder was fitted, asked again at each load.

A model that was exchanged, damaged, or is run by a library that answers otherwise gives itself away by them. They are
evidence, not prevention: who exchanges the model may exchange the folder, too, unless it is kept apart.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from headrace.payload import Array, Infer, InferenceRequest
from headrace.trust.rows import Rows

ROWS: Final = 16
"""So many are asked."""
RELATIVE: Final = 1e-4
ABSOLUTE: Final = 1e-5
"""Engines that were proven equal differ by less."""


async def check(infer: Infer, rows: Rows, x: Array, expected: Array, *, model: str, version: str = "") -> str:
    """Ask the model for the first rows of the reference.

    Args:
        infer: The model.
        rows: How rows become requests.
        x: `[n, f]` FP64.
        expected: `[n, k]` FP64, what it answered then.
        model: Its name.
        version: Its version.

    Returns:
        What differs, as a sentence; empty: nothing does.
    """
    x, expected = x[:ROWS], expected[:ROWS]
    request = InferenceRequest(
        model_name=model,
        model_version=version,
        inputs=rows.tensors(x),
        outputs=rows.requested(),
        headers={"headrace-internal": "canary"},
    )
    answered = rows.answers((await infer(request)).outputs)
    if answered is None or answered.shape != expected.shape:
        came = "nothing that can be compared" if answered is None else f"answers of shape {answered.shape}"
        return f"its trust folder recorded answers of shape {expected.shape}, and it gives {came}"
    far = ~np.isclose(answered, expected, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)
    if not far.any():
        return ""
    row, column = (int(each) for each in np.argwhere(far)[0])
    return (
        f"it answers {int(far.any(axis=1).sum())} of {len(x)} recorded rows otherwise than when its trust folder was "
        f"fitted: row {row} gives {answered[row, column]:.6g}, and gave {expected[row, column]:.6g}; it is another "
        f"model, or another library runs it. If that is meant, fit the folder again: headrace trust fit"
    )
