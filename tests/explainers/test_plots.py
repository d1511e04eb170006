"""Plots: every method's explanation is drawn, as SVG and PNG, to the same bytes each time, whatever its names hold.

Left out: that a picture looks good, which was judged by eye.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import msgspec
import numpy as np
import pytest
from matplotlib.image import imread
from sklearn.linear_model import LogisticRegression

from headrace.errors import InvalidRequest
from headrace.explainers import registry
from headrace.explainers.base import Ask, Explanation, Reference
from headrace.explainers.plots import draw
from headrace.features import Feature, Features, numeric
from headrace.testing import explainers as tables

TABLES = (
    "kernel-shap",
    "permutation-shap",
    "exact-shap",
    "linear-shap",
    "lime",
    "integrated-gradients",
    "ale",
    "partial-dependence",
    "permutation-importance",
    "trust-score",
    "anchor-tabular",
    "counterfactual",
    "contrastive",
)
IMAGES = ("permutation-shap", "lime", "integrated-gradients", "anchor-image", "counterfactual")


def table_case():
    x = tables.table()
    y = tables.grant(x).argmax(axis=1)
    model = LogisticRegression(max_iter=500).fit(np.nan_to_num(x) / [50, 5, 1, 1, 1], y)
    model.coef_ = model.coef_ / [50, 5, 1, 1, 1]
    reference = Reference(features=tables.FEATURES, x=x, y=y, classes=tables.CLASSES, artifact=model)
    return reference, tables.grant, x[0]


def image_case():
    x = np.random.default_rng(0).random((40, 64))
    y = (x[:, :8].mean(axis=1) > 0.5).astype(np.int64)

    def predict(rows):
        bright = 1 / (1 + np.exp(-8 * (rows[:, :8].mean(axis=1) - 0.5)))
        return np.stack([1 - bright, bright], axis=1)

    return Reference(features=numeric(64, shape=(8, 8)), x=x, y=y, classes=("dark", "bright")), predict, x[0]


def text_case():
    x = np.array(["a good day", "a bad day"], object)

    def predict(rows):
        glad = 0.5 + 0.4 * np.array([("good" in text) - ("bad" in text) for text in rows], float)
        return np.stack([1 - glad, glad], axis=1)

    reference = Reference(features=Features(columns=()), x=x, classes=("sad", "glad"))
    return reference, predict, np.array("such a good day", object)


def explained(method, case, **budget):
    reference, predict, x = case
    kind = registry.find(method)
    return kind.make(reference).explain(Ask(predict, **budget), reference.x[:0] if kind.IS_GLOBAL else x)


def checked(explanation, features):
    """Both formats, opened by who reads such files."""
    svg, png = draw(explanation, features, format="svg"), draw(explanation, features, format="png")
    assert ET.fromstring(svg).tag.endswith("svg")
    pixels = imread(io.BytesIO(png))
    assert pixels.shape[1] == 800
    assert pixels[..., :3].std() > 0.01
    assert draw(explanation, features, format="svg") == svg
    assert draw(explanation, features, format="png") == png
    return svg


@pytest.mark.parametrize("method", TABLES)
def test_explanations_of_tables_are_drawn(method):
    """Every method of tables has a picture, the same bytes each time, also when the budget was spent at once."""
    case = table_case()
    checked(explained(method, case), tables.FEATURES)
    draw(explained(method, case, max_rows=1), tables.FEATURES)


@pytest.mark.parametrize("method", IMAGES)
def test_explanations_of_images_are_drawn(method):
    """Every method of images has a picture, the same bytes each time."""
    case = image_case()
    checked(explained(method, case), case[0].features)


@pytest.mark.parametrize("method", ["lime", "anchor-text"])
def test_explanations_of_texts_are_drawn(method):
    """Every method of texts has a picture, the same bytes each time."""
    case = text_case()
    checked(explained(method, case), case[0].features)


@pytest.mark.parametrize(
    "name",
    ["$x^2$", "a_{b", "<b>&amp;", "\u6e29\u5ea6 \u00b0C", "x" * 300, "tab\there", ""],
    ids=["dollars", "underscore", "marks", "signs", "long", "tab", "empty"],
)
def test_names_are_drawn_as_they_are(name):
    """Names with mathematics, marks of XML, signs the font lacks, or of any length draw without a warning."""
    features = Features(columns=(Feature(name=name), Feature(name="other")))
    x = np.random.default_rng(0).normal(size=(20, 2))
    reference = Reference(features=features, x=x, classes=(name, "b"))
    predict = lambda rows: np.stack([rows[:, 0], 1 - rows[:, 0]], axis=1)  # noqa: E731
    for method in ("exact-shap", "ale", "lime"):
        checked(explained(method, (reference, predict, x[0])), features)


def test_data_of_another_shape_is_told_in_words():
    """An explanation whose data is not known here is drawn as its text."""
    other = Explanation(method="oracle", data={"omen": "owl"}, text="The owl looked east. " * 60)
    svg = checked(other, numeric(3))
    assert len(svg) > 10_000


def test_an_explanation_read_from_json_is_drawn():
    """Lists in place of arrays, as JSON carries them, draw to the same bytes."""
    found = explained("kernel-shap", table_case())

    def plain(value):
        if isinstance(value, dict):
            return {name: plain(each) for name, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(each) for each in value]
        return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value

    listed = msgspec.structs.replace(found, data=plain(dict(found.data)))
    assert draw(listed, tables.FEATURES) == draw(found, tables.FEATURES)


def test_ids_do_not_collide():
    """No id of an SVG is given twice."""
    svg = draw(explained("partial-dependence", table_case()), tables.FEATURES).decode()
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len(set(ids))


def test_another_format_is_refused():
    """Only SVG and PNG are drawn."""
    with pytest.raises(InvalidRequest, match="pdf"):
        draw(Explanation(method="m", data={}, text="t"), numeric(1), format="pdf")


def test_pyplot_stays_out():
    """Drawing imports no pyplot, whose figures are global."""
    code = (
        "import sys; from headrace.explainers.plots import draw; from headrace.explainers.base import Explanation; "
        "from headrace.features import numeric; draw(Explanation(method='m', data={}, text='t'), numeric(1)); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
