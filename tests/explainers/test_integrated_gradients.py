"""Integrated gradients: what every explainer keeps, completeness, and each way to a gradient against differences."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from headrace.errors import InvalidRequest
from headrace.explainers.base import Ask, Reference
from headrace.explainers.integrated_gradients import IntegratedGradients
from headrace.features import numeric
from headrace.testing.explainers import ExplainerConformance


class TestIntegratedGradients(ExplainerConformance):
    method = "integrated-gradients"

    def reference(self):
        import msgspec

        return msgspec.structs.replace(super().reference(), artifact=None)


def network(columns, *, seed=0):
    """A perceptron with a hidden layer of tanh, of random weights."""
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(columns, 12)) / np.sqrt(columns), rng.normal(size=(12, 1))
    return lambda x: np.tanh(x @ first) @ second


def test_attributions_of_a_tanh_network_add_up():
    """Fifty steps on a tanh network leave less than 1e-6 of the change from baseline to row."""
    rng = np.random.default_rng(0)
    model = MLPRegressor(hidden_layer_sizes=(16, 8), activation="tanh", max_iter=30, random_state=0)
    table = rng.normal(size=(200, 6))
    with pytest.warns(UserWarning, match="converge"):
        model.fit(table, table[:, 0] * table[:, 1] + np.sin(table[:, 2]))
    reference = Reference(features=numeric(6), x=table, artifact=model)
    for row in table[:10]:
        found = IntegratedGradients.make(reference, gradient="model").explain(Ask(no_model), row)
        assert abs(found.data["deltas"][0]) < 1e-6
        assert found.data["predictions"][0, 0] == pytest.approx(model.predict(row[None])[0], abs=1e-12)


def no_model(x):
    raise AssertionError("the model was asked, and it was to be read")


def test_numeric_attributions_add_up():
    """Differences of a smooth model that may only be asked leave little of the change, and few calls are made."""
    table = np.random.default_rng(1).normal(size=(50, 6))
    ask = Ask(network(6))
    found = IntegratedGradients.make(Reference(features=numeric(6), x=table)).explain(ask, table[0])
    assert abs(found.data["deltas"][0]) < 1e-5
    assert ask.rows == 2 + 50 * 2 * 6
    assert ask.calls == 2


def fitted(name):
    x, y = {"binary": load_breast_cancer, "many": load_iris, "number": load_diabetes}[name.split("-")[0]](
        return_X_y=True
    )
    kind = {
        "binary-logistic": LogisticRegression(),
        "many-logistic": LogisticRegression(),
        "number-linear": Ridge(),
        "binary-mlp-tanh": MLPClassifier(hidden_layer_sizes=(7, 5), activation="tanh", max_iter=3, random_state=0),
        "many-mlp-logistic": MLPClassifier(hidden_layer_sizes=(6,), activation="logistic", max_iter=3, random_state=0),
        "number-mlp-relu": MLPRegressor(hidden_layer_sizes=(20, 10), activation="relu", max_iter=30, random_state=0),
    }[name]
    model = make_pipeline(StandardScaler(), kind)
    if "mlp" in name:
        with pytest.warns(UserWarning, match="converge"):
            model.fit(x, y)
    else:
        model.fit(x, y)
    classes = () if name.startswith("number") else tuple(str(each) for each in np.unique(y))
    predict = (lambda rows: model.predict(rows)[:, None]) if not classes else model.predict_proba
    return Reference(features=numeric(x.shape[1]), x=x, classes=classes, artifact=model), predict


@pytest.mark.parametrize(
    "name",
    [
        "binary-logistic",
        "many-logistic",
        "number-linear",
        "binary-mlp-tanh",
        "many-mlp-logistic",
        "number-mlp-relu",
    ],
)
def test_the_gradient_read_is_the_gradient_measured(name):
    """For every model that can be read, behind a scaler, the attributions are those of numeric differences, and its
    answers those it gives when asked.
    """
    reference, predict = fitted(name)
    for target in range(max(len(reference.classes), 1)):
        read = IntegratedGradients.make(reference, gradient="model").explain(
            Ask(no_model), reference.x[3], target=target
        )
        asked = IntegratedGradients.make(reference, gradient="numeric").explain(
            Ask(predict), reference.x[3], target=target
        )
        assert np.allclose(read.data["predictions"], asked.data["predictions"], atol=1e-10)
        scale = np.abs(asked.data["attributions"][0]).max()
        tolerance = 2e-2 if "relu" in name else 1e-4
        assert np.abs(read.data["attributions"][0] - asked.data["attributions"][0]).max() < tolerance * scale


def test_a_tree_is_said_not_to_add_up():
    """A step function has no gradient, and the warning says that the attributions miss the change."""
    step = lambda x: (x[:, :1] > 0.3).astype(float)  # noqa: E731
    reference = Reference(features=numeric(2), x=np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0]]))
    found = IntegratedGradients.make(reference).explain(Ask(step), np.array([1.0, 1.0]))
    assert any("miss" in each for each in found.warnings)


def test_a_small_budget_takes_fewer_steps():
    """With rows for five steps, five are taken, and the explanation says so."""
    table = np.random.default_rng(1).normal(size=(50, 6))
    ask = Ask(network(6), max_rows=2 + 60)
    found = IntegratedGradients.make(Reference(features=numeric(6), x=table)).explain(ask, table[0])
    assert not found.complete
    assert ask.rows == 62


@pytest.mark.parametrize(
    ("parameters", "options"),
    [
        ({"gradient": "model"}, {}),
        ({"baseline": "sea level"}, {}),
        ({"baseline": [1.0]}, {}),
        ({}, {"target": 4}),
        ({}, {"steps": 0}),
        ({}, {"step": 0.0}),
    ],
)
def test_parameters_are_checked(parameters, options):
    """A parameter out of its range, or a gradient of a model that has none, is refused."""
    reference = Reference(features=numeric(6), x=np.zeros((2, 6)))
    with pytest.raises(InvalidRequest):
        IntegratedGradients.make(reference, **parameters).explain(Ask(network(6)), np.ones(6), **options)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_torch_module_is_differentiated(precision):
    """Of a torch module the gradient is autograd's: attributions add up, and the module is left as it was."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(16, 8), torch.nn.Tanh(), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3)
    ).to(getattr(torch, precision))
    module.train()
    table = np.random.default_rng(0).normal(size=(20, 16))
    reference = Reference(features=numeric(16, shape=(4, 4)), x=table, classes=("a", "b", "c"), artifact=module)
    found = IntegratedGradients.make(reference).explain(Ask(no_model), table[0])
    assert found.data["gradient"] == "autograd"
    assert found.data["attributions"][0].shape == (1, 4, 4)
    assert abs(found.data["deltas"][0]) < (1e-6 if precision == "float64" else 1e-5)
    assert module.training
    assert all(each.grad is None for each in module.parameters())
