"""The report: one page that needs nothing else, whatever names and values are in it, and says what the verdicts say."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import msgspec
import numpy as np
import pytest
from tests.monitoring.trust_folders import CANCER, drift, outlier

from headrace.features import Feature, Features
from headrace.monitoring import report, report_page, report_plots
from headrace.monitoring.stream import Stream
from headrace.monitoring.tap import packed
from headrace.payload import Tensor
from headrace.trust import folder as folders
from headrace.trust.spec import DetectorSpec, Window

EVIL = "<script>alert('x')</script>&\"$a^b$"


def part(x, ids="r"):
    return {
        "inputs": packed([Tensor("x", "FP64", x)]),
        "outputs": packed([Tensor("probabilities", "FP64", CANCER.predict(x))]),
        "rows": [len(x)],
        "ids": [ids],
        "times": [1.0e9],
    }


def page_of(stream, **status):
    told = {**stream.status(), "error": "", "dropped_rows": 0, "snapshot_refusal": "", **status}
    return report.render(stream.folder, told, stream.shown()).decode()


class Checked(HTMLParser):
    """Balanced elements, and none that loads or runs anything."""

    def __init__(self):
        super().__init__()
        self.open, self.kinds = [], set()

    def handle_starttag(self, tag, attrs):
        self.kinds.add(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            assert name != "src"
            assert not (name in {"href", "xlink:href"} and not value.startswith("#"))
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def checked(page):
    parser = Checked()
    parser.feed(page)
    assert parser.open == []
    assert not parser.kinds & {"script", "link", "iframe", "img", "object", "image"}
    return page


@pytest.fixture
def evil(tmp_path):
    """A watched model whose names are all markup, with drift and odd rows."""
    plain = CANCER.write(tmp_path / "plain", [drift(), outlier(threshold=1e4)])
    columns = (Feature(name=EVIL), *plain.schema.features.columns[1:])
    features = Features(columns=columns)
    schema = msgspec.structs.replace(plain.schema, features=features, classes=(EVIL, "b"), bias=())
    folder = folders.write_folder(
        tmp_path / "trust",
        card=msgspec.structs.replace(plain.card, data=EVIL, warnings=(EVIL,)),
        schema=schema,
        detectors=[(spec, plain.state(spec.name)) for spec in plain.detectors],
        explainers=plain.explainers,
        reference=msgspec.structs.replace(plain.reference(), features=features),
        held_out=msgspec.structs.replace(plain.held_out(), features=features),
        outputs=plain.outputs(),
        held_outputs=plain.held_outputs(),
    )
    stream = Stream(EVIL, EVIL, folder, ask=lambda *_: (), most_rows=1000)
    x = CANCER.fresh[:120] + 1.0
    x[3] += 300.0
    stream.take([part(x, EVIL)])
    return stream


def test_nothing_from_outside_becomes_markup(evil):
    """Names of models, features, classes, requests and errors that are markup stand in the page as text."""
    page = checked(page_of(evil, error=EVIL))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 5


def test_the_page_says_what_the_verdicts_say(evil):
    """State, threshold and the oddest row are the stream's own."""
    page = page_of(evil)
    told = evil.status()["detectors"]
    assert f'<span class="badge {told[0]["state"]}">' in page
    assert f"{told[1]['flagged_rows']} of 120 rows were odd" in page
    assert report_page.number(evil.shown()["odd-rows"]["worst"][0]["score"]) in page


def test_a_page_without_verdicts_says_that_rows_are_collected(tmp_path):
    """Before the first window the page tells how many rows there are and are needed."""
    specs = [
        drift(),
        outlier(),
        DetectorSpec(name="fair", method="groups", kind="bias", on="predictions"),
        DetectorSpec(name="odd", method="none", kind="outlier", threshold=1.0),
    ]
    folder = CANCER.write(tmp_path / "trust", specs[:3])
    stream = Stream("m", "", folder, ask=lambda *_: (), most_rows=10)
    assert "Collecting: 0 of 60 rows" in checked(page_of(stream))
    stream.take([part(CANCER.fresh[:7])])
    assert "Collecting: 7 of 60 rows" in checked(page_of(stream))


def test_performance_and_bias_are_drawn_with_intervals(tmp_path):
    """Measures of two windows are a picture with a table of value, low and high."""
    window = Window(rows=140, min_rows=30)
    specs = [
        DetectorSpec(name="truth", method="realised", kind="performance", on="predictions", window=window),
        DetectorSpec(name="fair", method="groups", kind="bias", on="predictions", window=window),
    ]
    folder = CANCER.write(tmp_path / "trust", specs)
    stream = Stream("m", "1", folder, ask=lambda *_: (), most_rows=1000)
    for at in range(2):
        x = CANCER.fresh[140 * at : 140 * at + 140]
        stream.take([part(x, str(at))])
        stream.label(str(at), [CANCER.classes[each] for each in CANCER.predict(x).argmax(1)])
    page = checked(page_of(stream))
    assert "accuracy" in page
    assert "<th class=n>low</th>" in page
    fair = stream.shown()["fair"]["history"][-1]["data"]["groups"][0]
    assert f"{fair['rule']} is privileged".replace(">", "&gt;") in page
    assert report_page.number(fair["metrics"]["spd"]["value"]) in page
    assert fair["labelled"] == 140


@pytest.mark.parametrize(
    "values",
    [np.full(5, np.nan), np.zeros(5), np.array([1e300, -1e300, 0.0]), np.array([])],
    ids=["missing", "constant", "huge", "none"],
)
def test_a_distribution_of_anything_can_be_drawn(values):
    """Missing, constant, huge and no values make a picture, not an error."""
    feature = Feature(name="a")
    assert "<svg" in report_plots.distributions("t", [feature], [values], [np.ones(3)], [""])
    assert "<svg" in report_plots.scores("t", values, None, 1.0)


def test_categories_stand_side_by_side():
    """Each category is named below its bars; one that the reference does not have is `unseen`."""
    feature = Feature(name="c", kind="category", categories=("red", "blue"))
    svg = report_plots.distributions("t", [feature], [np.array([0.0, 1.0])], [np.array([0.0, -1.0])], [""])
    assert re.findall(r">(red|blue|unseen)<", svg) != []
    assert {"red", "blue", "unseen"} <= set(re.findall(r">(red|blue|unseen)<", svg))
