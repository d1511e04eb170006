"""Whether a model written by one version of scikit-learn answers rightly under another: a pure decision at `load`.

The library itself only warns. Most combinations answer rightly or fail; the few that answer wrongly without a word are
rows of `BROKEN`: measured with models saved by scikit-learn 1.3.2, 1.4.2, 1.5.2 and 1.7.2 and answered by 1.9.1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from headrace.payload import EMPTY

Version = tuple[int, int]
"""Major and minor: what changes an estimator's state."""


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """An estimator in a file: its class, the version that wrote it, and what of its options matters here."""

    name: str
    """The class's name, without its module."""
    version: str
    options: Mapping[str, object] = EMPTY
    """`multi_class`, `solver`, `algorithm`, `classes`: the number of classes."""


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """A combination that answers wrongly in silence."""

    names: frozenset[str]
    written_before: Version
    installed_from: Version
    reason: str
    options: Mapping[str, frozenset[object]] = msgspec.field(default_factory=dict)
    """Only for an estimator whose option is one of these; empty: for any."""
    classes: tuple[int, float] = (0, math.inf)
    """Only for this many classes, both ends included."""

    def applies(self, written: Written, installed: str) -> bool:
        """Whether this estimator, under that version, is the combination."""
        return (
            written.name in self.names
            and parse(written.version) < self.written_before
            and parse(installed) >= self.installed_from
            and all(written.options.get(option) in values for option, values in self.options.items())
            and self.classes[0] <= _count(written.options.get("classes")) <= self.classes[1]
        )


class Verdict(msgspec.Struct, frozen=True):
    """What to do with the file."""

    wrong: str = ""
    """Why its answers would be wrong, and what to install; empty: no such reason is known."""
    warning: str = ""
    """What a person should know although it is served; empty: written by the installed version."""


BROKEN: Final[tuple[Broken, ...]] = (
    Broken(
        # Forests, extra trees, bagging and AdaBoost hold these, so they are named through them.
        names=frozenset({"DecisionTreeClassifier", "ExtraTreeClassifier"}),
        written_before=(1, 4),
        installed_from=(1, 4),
        reason="its trees hold class counts where the installed version expects fractions, so votes and probabilities "
        "are weighted wrongly (a forest: 8 % wrong labels, a bagging: 10 %, a tree: counts for probabilities)",
    ),
    Broken(
        names=frozenset({"AdaBoostClassifier"}),
        written_before=(1, 6),
        installed_from=(1, 6),
        options={"algorithm": frozenset({"SAMME.R"})},
        reason="it was trained by SAMME.R, and the installed version combines its members as SAMME (42 % wrong labels)",
    ),
    Broken(
        names=frozenset({"LogisticRegression", "LogisticRegressionCV"}),
        written_before=(1, 8),
        installed_from=(1, 8),
        options={"multi_class": frozenset({"ovr"})},
        classes=(3, math.inf),
        reason="it was trained one class against the rest, and the installed version normalises its scores as a "
        "multinomial model (labels are right, probabilities off by up to 0.4)",
    ),
    Broken(
        names=frozenset({"LogisticRegression", "LogisticRegressionCV"}),
        written_before=(1, 8),
        installed_from=(1, 8),
        options={
            "multi_class": frozenset({"auto", "warn", "deprecated"}),
            "solver": frozenset({"liblinear"}),
        },
        classes=(3, math.inf),
        reason="liblinear trained it one class against the rest, and the installed version normalises its scores as a "
        "multinomial model (labels are right, probabilities off by up to 0.4)",
    ),
    Broken(
        names=frozenset({"LogisticRegression", "LogisticRegressionCV"}),
        written_before=(1, 8),
        installed_from=(1, 8),
        options={"multi_class": frozenset({"multinomial"})},
        classes=(2, 2),
        reason="two classes were trained as a multinomial model, and the installed version takes their score for a "
        "binary one (labels are right, probabilities off by up to 0.15)",
    ),
)


def judge(estimators: Iterable[Written], installed: str) -> Verdict:
    """What to do with a file that holds these estimators under the installed version.

    Args:
        estimators: Each estimator in it whose version is known; those of the installed version may be among them.
        installed: The installed scikit-learn's version.
    """
    others = [written for written in estimators if written.version != installed]
    if not others:
        return Verdict()
    oldest = min((written.version for written in others), key=parse)
    for written in others:
        for row in BROKEN:
            if row.applies(written, installed):
                return Verdict(
                    wrong=f"{written.name} was written by scikit-learn {written.version} and {installed} is installed: "
                    f"{row.reason}; install scikit-learn=={written.version}, or save the model again with {installed}"
                )
    names = ", ".join(sorted({written.name for written in others}))
    return Verdict(
        warning=f"written by scikit-learn {oldest}, answered by {installed} ({names}); no wrong answers are known of "
        f"this combination, but only golden rows prove it"
    )


def parse(version: str) -> Version:
    """Major and minor of a version; (0, 0) for text that is none."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
