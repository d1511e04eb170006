"""Small real trust folders, for tests of who serves them."""

from __future__ import annotations

import numpy as np

from headrace.explainers.base import Reference
from headrace.features import Feature, Features
from headrace.trust.folder import write_folder
from headrace.trust.spec import Card, Explainers, ExplainerSpec, Input, Output, Schema

WIDTH = 4
FEATURES = Features(columns=tuple(Feature(name=name, low=-3.0, high=3.0) for name in ("a", "b", "c", "d")))
EXPLAINERS = Explainers(
    explainers=(
        ExplainerSpec(name="why", method="permutation-shap", parameters={"background": 20}),
        ExplainerSpec(name="rule", method="anchor-tabular"),
    ),
    model="m-explainer",
    deadline_seconds=20.0,
)


def probabilities(x):
    """Of the second class: a hinge on `a`, some of `b`, nothing of the others."""
    second = 1 / (1 + np.exp(-(4 * x[:, 0] + x[:, 1])))
    return np.column_stack([1 - second, second])


def write(path, *, explainers=EXPLAINERS, rows=200):
    """A folder of a classifier of four numbers that takes one tensor `x` and answers one tensor `p`."""
    generator = np.random.default_rng(7)
    x, held = generator.normal(size=(rows, WIDTH)), generator.normal(size=(50, WIDTH))
    schema = Schema(
        features=FEATURES,
        inputs=(Input(name="x", datatype="FP64", columns=tuple(range(WIDTH))),),
        output=Output(probabilities="p"),
        classes=("no", "yes"),
    )

    def reference(rows):
        return Reference(features=FEATURES, x=rows, y=probabilities(rows).argmax(axis=1), classes=("no", "yes"))

    return write_folder(
        path,
        card=Card(rows=rows, held_out_rows=50),
        schema=schema,
        detectors=[],
        explainers=explainers,
        reference=reference(x),
        held_out=reference(held),
    ).path
