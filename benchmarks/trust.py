"""What detectors and explainers cost: each method on fixed data, alone in this process, without a server.

Usage: .venv-test/bin/python benchmarks/trust.py [--write] [METHOD ...]

Prints the tables that docs/detectors.md and docs/explanations.md show, and whether the targets are met; `--write` puts
them there. Each figure is the median of several repeats on one thread; run it on a machine that does nothing else.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_digits, make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits

from headrace.detectors import registry as detectors
from headrace.detectors.base import Adversarial, Detector, DriftTest, Outlier
from headrace.errors import InvalidRequest, MissingExtra
from headrace.explainers import registry as explainers
from headrace.explainers.base import Ask, Explainer, Reference
from headrace.features import Features, numeric

DOCS = Path(__file__).resolve().parent.parent / "docs"
COLUMNS = 10
REFERENCE = 5_000
WINDOW = 1_000
REPEATS = 7
ASKED = 5
ANCHORED = 20
LONGEST = 3.0
"""Seconds that the repeats of one figure may take together."""

x, y = make_classification(12_000, COLUMNS, n_informative=6, random_state=0)
rng = np.random.default_rng(0)
hours = np.arange(12_000) % 24
series = (np.sin(2 * np.pi * hours / 24) + rng.normal(0, 0.1, 12_000)).reshape(-1, 1)
forest = RandomForestClassifier(50, min_samples_leaf=5, random_state=0, n_jobs=1).fit(x[:REFERENCE], y[:REFERENCE])
linear = LogisticRegression().fit(x[:REFERENCE], y[:REFERENCE])


class Data(NamedTuple):
    """Rows that a method takes."""

    what: str
    rows: Any
    features: Features


TABLES = (
    Data(f"{COLUMNS} numbers", x, numeric(COLUMNS)),
    Data("1 number", x[:, :1], numeric(1)),
    Data("2 yes-or-no columns", (x[:, :2] > 0).astype(float), numeric(2)),
    Data("1 flag", (rng.random((12_000, 1)) < 0.01).astype(float), numeric(1)),
)
SERIES = Data("1 series, hourly", series, numeric(1))


def timed(work: Callable[[], Any], *, before: Callable[[], Any] | None = None) -> float:
    """Seconds of one call, the median of some."""
    spent: list[float] = []
    while len(spent) < REPEATS and sum(spent) < LONGEST:
        if before is not None:
            before()
        begin = time.perf_counter()
        work()
        spent.append(time.perf_counter() - begin)
    return median(spent)


# -- detectors --


def fitted(kind: type[Detector]) -> tuple[Detector, Data, float]:
    """A method on the first data that it takes, and how long its fit took."""
    tried: list[str] = []
    for data in TABLES if "tabular" in kind.DATA else (SERIES,):
        more = (forest.predict_proba,) if issubclass(kind, Adversarial) else ()
        try:
            made: Detector = kind.fit(data.rows[:REFERENCE], data.features, *more)  # type: ignore[attr-defined]
        except InvalidRequest as error:
            tried.append(f"{data.what}: {error}")
            continue
        begin = time.perf_counter()  # the first time libraries were imported
        kind.fit(data.rows[:REFERENCE], data.features, *more)  # type: ignore[attr-defined]
        return made, data, time.perf_counter() - begin
    raise InvalidRequest("; ".join(tried))


def detector_row(method: str) -> str:
    """A row of the table."""
    kind = detectors.find(method)
    made, data, fit = fitted(kind)
    one, many = data.rows[REFERENCE : REFERENCE + 1], data.rows[REFERENCE : REFERENCE + WINDOW]
    state = made.state()

    def run(rows: Any) -> float:
        held: list[Any] = [made]

        def fresh() -> None:
            held[0] = kind.restore(state, data.features)

        def work() -> Any:
            if isinstance(made, Outlier):
                return held[0].score(rows)
            if isinstance(made, Adversarial):
                return held[0].score(rows, forest.predict_proba)
            if isinstance(made, DriftTest):
                return held[0].test(rows)
            return held[0].step(rows)

        work()
        return timed(work, before=fresh if kind.ONLINE else None)

    whole = run(many)
    alone = "" if isinstance(made, DriftTest) else f"{run(one) * 1e6:,.0f}"
    size = sum(each.nbytes for each in state.arrays.values())
    return (
        f"| `{method}` | {data.what} | {fit:.2f} | {alone} | {whole / WINDOW * 1e6:.3g} | {whole * 1e3:.3g} | "
        f"{size / 1024:,.0f} |"
    )


def detector_table(methods: tuple[str, ...]) -> list[str]:
    """The table of detectors."""
    return [
        "| method | on | fit, s | one row alone, us | a row of 1,000, us | 1,000 rows, ms | kept, KiB |",
        "|---|---|---|---|---|---|---|",
        *(detector_row(each) for each in methods if each in detectors.METHODS),
    ]


# -- explainers --


class Case(NamedTuple):
    """What is explained."""

    what: str
    reference: Reference
    predict: Callable[[Any], Any]
    rows: Any


def tabular(model: Any, what: str) -> Case:
    known = Reference(features=numeric(COLUMNS), x=x[:REFERENCE], y=y[:REFERENCE], classes=("0", "1"), artifact=model)
    return Case(what, known, model.predict_proba, x[REFERENCE:])


def text() -> Case:
    good, bad, other = "good fine nice great", "bad poor awful weak", "the film was a story of two people"
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 500)
    texts = np.empty(500, object)
    for at, label in enumerate(labels):
        chosen = [*draw.choice((good if label else bad).split(), 2), *draw.choice(other.split(), 8)]
        texts[at] = " ".join(draw.permutation(chosen))
    model = make_pipeline(CountVectorizer(), LogisticRegression()).fit(texts, labels)
    known = Reference(features=Features(columns=()), x=texts, y=labels, classes=("bad", "good"))
    return Case("logistic regression, texts of 10 words", known, model.predict_proba, texts)


def image() -> Case:
    pixels, labels = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=500).fit(pixels / 16, labels)
    names = tuple(map(str, range(10)))
    known = Reference(features=numeric(64, shape=(8, 8)), x=pixels[:1000] / 16, y=labels[:1000], classes=names)
    return Case("logistic regression, digits of 8 x 8", known, model.predict_proba, pixels[1000:] / 16)


def cases(method: str, kind: type[Explainer]) -> Case:
    """What a method is shown on."""
    if "tabular" not in kind.DATA:
        return text() if "text" in kind.DATA else image()
    if method in {"linear-shap", "integrated-gradients"}:
        return tabular(linear, f"logistic regression, {COLUMNS} columns")
    return tabular(forest, f"forest of 50 trees, {COLUMNS} columns")


def explained(method: str, case: Case, count: int) -> tuple[list[float], list[int], float]:
    """Seconds and rows asked for, of each of some rows; seconds to make the explainer."""
    kind = explainers.find(method)
    begin = time.perf_counter()
    made = kind.make(case.reference)
    making = time.perf_counter() - begin
    seconds, asked = [], []
    for at in range(1 if kind.IS_GLOBAL else count):
        row = case.rows[:0] if kind.IS_GLOBAL else np.asarray(case.rows[at])
        ask = Ask(case.predict)
        begin = time.perf_counter()
        made.explain(ask, row)
        seconds.append(time.perf_counter() - begin)
        asked.append(ask.rows)
    return seconds, asked, making


def explainer_row(method: str) -> str:
    """A row of the table."""
    kind = explainers.find(method)
    case = cases(method, kind)
    seconds, asked, making = explained(method, case, ASKED)
    return (
        f"| `{method}` | {case.what} | {making:.2f} | {median(seconds) * 1e3:.3g} | {max(seconds) * 1e3:.3g} | "
        f"{median(asked):,.0f} |"
    )


def explainer_table(methods: tuple[str, ...]) -> list[str]:
    """The table of explainers."""
    return [
        "| method | model | made in, s | an explanation, ms | the slowest of five, ms | rows the model was asked for |",
        "|---|---|---|---|---|---|",
        *(explainer_row(each) for each in methods if each in explainers.METHODS),
    ]


# -- targets --


def targets() -> list[str]:
    """What was promised, and what is."""
    draw = np.random.default_rng(1)
    wide, sample = draw.normal(size=(10_000, 30)), draw.normal(size=(10_000, 30))
    ks = detectors.find("ks").fit(wide, numeric(30))  # type: ignore[attr-defined]
    mmd = detectors.find("mmd").fit(wide[:1000, :COLUMNS], numeric(COLUMNS))  # type: ignore[attr-defined]
    case = tabular(forest, "")
    anchors, _, _ = explained("anchor-tabular", case, ANCHORED)
    measured = timed(lambda: ks.test(sample)), timed(lambda: mmd.test(sample[:1000, :COLUMNS])), median(anchors)
    named: Mapping[str, float] = {
        "KS, 30 columns, 10,000 rows against 10,000": 0.05,
        "MMD, 1,000 rows against 1,000, 10 columns, 199 permutations": 0.3,
        f"anchors of a row of 10 columns, forest of 50 trees, median of {ANCHORED}": 2.0,
    }
    lines = ["| what | target, ms | measured, ms |", "|---|---|---|"]
    for (what, limit), found in zip(named.items(), measured, strict=True):
        lines.append(f"| {what} | < {limit * 1e3:,.0f} | {found * 1e3:.3g} |")
    return lines


def put(page: str, block: str, lines: list[str]) -> None:
    """Write a table between its markers."""
    path = DOCS / page
    begin, end = f"<!-- measured: {block} -->\n", "<!-- end -->"
    above, found, rest = path.read_text().partition(begin)
    if not found:
        raise SystemExit(f"{path} has no line {begin.strip()}")
    path.write_text(above + begin + "\n".join(lines) + "\n" + end + rest.partition(end)[2])


def main() -> None:
    write = "--write" in sys.argv[1:]
    chosen = tuple(each for each in sys.argv[1:] if not each.startswith("-"))
    if write and chosen:
        raise SystemExit("--write is for all methods")
    tables = (
        ("detectors.md", "detectors", lambda: detector_table(chosen or tuple(detectors.METHODS))),
        ("explanations.md", "explainers", lambda: explainer_table(chosen or tuple(explainers.METHODS))),
    )
    try:
        for page, block, table in tables:
            lines = table()
            print("\n".join(lines), end="\n\n")
            if write:
                put(page, block, lines)
        if not chosen:
            lines = targets()
            print("\n".join(lines))
            if write:
                put("detectors.md", "targets", lines)
    except MissingExtra as error:
        raise SystemExit(f"{error}: install headrace[all]") from error


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
