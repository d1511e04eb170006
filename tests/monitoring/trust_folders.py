"""Small real trust folders, fitted here on data with known truth, and a model that answers with probabilities."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from headrace.detectors import registry
from headrace.explainers.base import Reference
from headrace.features import Feature, Features, numeric
from headrace.payload import InferenceResponse, Tensor
from headrace.trust import folder as folders
from headrace.trust.spec import Alert, Bias, Card, DetectorSpec, Explainers, Input, Output, Schema, Window


class Small:
    """A set of rows, half of them the reference, and a classifier of them."""

    def __init__(self, load):
        data = load()
        order = np.random.default_rng(0).permutation(len(data.data))
        self.x = StandardScaler().fit_transform(data.data)[order]
        self.y = data.target[order]
        half = len(self.x) // 2
        self.reference, self.fresh = self.x[:half], self.x[half:]
        self.model = LogisticRegression(max_iter=200).fit(self.x[:half], self.y[:half])
        self.names = tuple(str(each).replace(" ", "_") for each in data.feature_names)
        self.classes = tuple(str(each) for each in data.target_names)
        self.features = Features(columns=tuple(Feature(name=name) for name in self.names))

    def predict(self, x):
        return self.model.predict_proba(x)

    def schema(self):
        return Schema(
            features=self.features,
            inputs=(Input(name="", datatype="FP64", columns=tuple(range(len(self.names)))),),
            output=Output(probabilities="probabilities"),
            classes=self.classes,
            bias=(Bias(attribute=self.names[0], above=0.0, favourable=self.classes[0]),),
        )

    def write(self, path, specs):
        """A folder with these detectors."""
        schema = self.schema()
        answers = self.predict(self.reference)
        third = len(self.reference) * 2 // 3
        written = []
        for spec in specs:
            state = None
            if spec.kind in {"outlier", "drift", "adversarial"}:
                x = {
                    "inputs": self.reference,
                    "outputs": answers,
                    "errors": (answers.argmax(1) != self.y[: len(answers)]).astype(float).reshape(-1, 1),
                }[spec.on]
                method = registry.find(spec.method)
                features = self.features if spec.on == "inputs" else numeric(x.shape[1])
                state = method.fit(x, features, **spec.parameters).state()
            written.append((spec, state))
        return folders.write_folder(
            path,
            card=Card(rows=third, held_out_rows=len(self.reference) - third, data="tests"),
            schema=schema,
            detectors=written,
            explainers=Explainers(),
            reference=Reference(
                features=self.features, x=self.reference[:third], y=self.y[:third], classes=self.classes
            ),
            held_out=Reference(
                features=self.features,
                x=self.reference[third:],
                y=self.y[third : len(self.reference)],
                classes=self.classes,
            ),
            outputs=answers[:third],
            held_outputs=answers[third:],
        )

    async def infer(self, request):
        """Answers with probabilities."""
        return InferenceResponse(
            model_name=request.model_name,
            id=request.id,
            outputs=(Tensor("probabilities", "FP64", self.predict(request.inputs[0].data)),),
        )


WINE = Small(load_wine)
CANCER = Small(load_breast_cancer)
HASTY = Alert(windows=1, at_least=1)


def drift(name="input-drift", *, rows=60, on="inputs", **more):
    """A Kolmogorov-Smirnov test of each column."""
    more.setdefault("window", Window(rows=rows, min_rows=min(30, rows)))
    return DetectorSpec(name=name, method="ks", kind="drift", on=on, **more)


def outlier(name="odd-rows", *, rows=60, threshold=60.0, **more):
    """Distances from the middle of the reference."""
    more.setdefault("window", Window(rows=rows, min_rows=min(30, rows)))
    return DetectorSpec(
        name=name,
        method="mahalanobis",
        kind="outlier",
        threshold=threshold,
        false_positive_rate=0.02,
        **more,
    )
