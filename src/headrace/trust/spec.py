"""What the files of a `trust/` folder say: their types, one struct per file. `trust.folder` reads and writes them.

    trust/
      card.json         format, provenance: data digest, counts, when, by which version, measured false-positive rates
      schema.json       what the model takes and says: features, ranges, categories, classes, protected attributes
      reference.npz     a sample of the training data, held-out rows beside it: x, y, outputs; numbers only
      detectors.json    what watches the model: method, parameters, threshold, window, what it is fed
      DETECTOR.npz      fitted arrays of one detector, only numbers
      explainers.json   which explainers there are, and what they are made with

Names of keys are those of the fields below. Nothing in it is executed when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from headrace.features import Features
from headrace.payload import EMPTY

FORMAT: Final = 1
"""Of the folder. A later one is refused, with what to do; an earlier one is read."""

Task = Literal["classification", "regression"]
On = Literal["inputs", "outputs", "uncertainty", "predictions", "outliers", "errors"]
"""What a detector is fed: the rows; the model's probabilities or numbers; the entropy of the probabilities; the label
or number that was answered; the flags of an outlier detector; whether the answer was wrong (needs labels)."""
Guard = Literal["off", "flag", "reject"]


class _Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    pass


class Input(_Part, frozen=True, kw_only=True):
    """Which columns a tensor of the request carries."""

    name: str
    """Of the tensor; empty: the request's only one, whatever it is called."""
    datatype: str
    columns: tuple[int, ...]
    """Positions in `Schema.features`, in the order of the tensor's last axes."""
    flat: bool = False
    """Its rows are vectors, though the features have a shape: an image whose model takes a list of pixels."""
    optional: bool = False
    """A request may leave it out: its columns are missing then."""


class Output(_Part, frozen=True, kw_only=True):
    """How the model's answer is read: where the probabilities and the predicted labels stand."""

    probabilities: str = ""
    """The tensor `[n, k]` of probabilities (of two classes, `[n]` or `[n, 1]` of the second is read, too); empty: the
    model gives none."""
    labels: str = ""
    """The tensor `[n]` of predicted classes, or of a regression its numbers; empty: the largest probability."""
    width: int = 1
    """Of a regression: how many numbers a row's answer has."""


class Bias(_Part, frozen=True, kw_only=True):
    """Who is compared with whom."""

    attribute: str
    """A feature."""
    privileged: tuple[str | int | float | bool, ...] = ()
    """Values of a category, or empty with `above`."""
    above: float | None = None
    """Of a number: rows above it are the privileged group."""
    favourable: str | int | float | bool = 1
    """The class that is good to get."""
    threshold: float = 0.8
    """The least disparate impact that is no alarm (the four-fifths rule)."""


class Schema(_Part, frozen=True, kw_only=True):
    """What the model takes and says."""

    data: Literal["tabular", "image", "text", "series"] = "tabular"
    task: Task = "classification"
    features: Features = Features(columns=())
    """Of text, none."""
    inputs: tuple[Input, ...] = ()
    output: Output = Output()
    classes: tuple[str | int | float | bool, ...] = ()
    """Of a classifier, in the order of its probabilities."""
    bias: tuple[Bias, ...] = ()


class Window(_Part, frozen=True, kw_only=True):
    """When a test is made, and on what. Rows count, not requests.

    The defaults: with 1,000 rows a test of a column finds a gap of .05 to .06 between distribution functions at level
    .05, which is about the least that it calls a drift at all (`min_effect`), so that more rows would say no more.
    Somebody with less traffic hears something each hour, once 100 rows came: a gap of .15 is found with these. Whatever
    its size, a window of usual rows is called drift as often as alpha says. With fewer than 100 rows only gross changes
    would be seen, and silence would be taken for an answer.
    """

    rows: int = 1000
    """So many make a window; more go to the next."""
    seconds: float = 3600.0
    """A window with at least `min_rows` is tested after so long, however many there are; 0: rows alone decide."""
    min_rows: int = 100
    """Fewer are never tested: the status is `collecting`."""
    step: int = 0
    """Rows between two tests of a sliding window; 0: windows follow one another (tumbling)."""


class Alert(_Part, frozen=True, kw_only=True):
    """When verdicts become an alert."""

    windows: int = 3
    """Of so many windows ..."""
    at_least: int = 2
    """... so many must be drift (of row detectors: be above the expected share of outliers)."""
    cooldown_seconds: float = 3600.0
    """After an alert, none of the same detector for so long."""


class DetectorSpec(_Part, frozen=True, kw_only=True):
    """One detector of the folder."""

    name: str
    """Its file is `NAME.npz`; metrics and status call it so."""
    method: str
    """As in `detectors.registry`; of kind `performance`: `cbpe` or `realised`; of kind `bias`: `groups`."""
    kind: Literal["outlier", "drift", "adversarial", "performance", "bias"]
    on: On = "inputs"
    online: bool = False
    parameters: Mapping[str, Any] = EMPTY
    """What the method was fitted with."""
    threshold: float | None = None
    """Of row detectors: a score above it is an outlier; chosen on held-out rows."""
    seed: int = 0
    window: Window = Window()
    alert: Alert = Alert()
    guard: Guard = "off"
    """Of row detectors: whether they also look before the model answers."""
    false_positive_rate: float | None = None
    """Measured on rows of the reference that neither the fit nor the threshold saw; of drift tests, on windows of such
    rows; of online drift, the alarms a row."""
    false_positive_interval: tuple[float, float] | None = None
    """Of that measurement: where the true rate is, with 95 % confidence (Clopper-Pearson)."""
    model: str = ""
    """The name of a model that answers with this detector's verdicts on the rows it is sent; empty: none."""


class ExplainerSpec(_Part, frozen=True, kw_only=True):
    """One explainer of the folder."""

    name: str
    """How a request asks for it."""
    method: str
    """As in `explainers.registry`."""
    parameters: Mapping[str, Any] = EMPTY
    """Of `make`."""
    options: Mapping[str, Any] = EMPTY
    """Of `explain`, where a request sets none."""
    seed: int = 0


class Explainers(_Part, frozen=True, kw_only=True):
    """The file explainers.json."""

    explainers: tuple[ExplainerSpec, ...] = ()
    """The first answers a request that names none."""
    model: str = ""
    """The name of a model that answers an inference request with an output `explanation`, so that gRPC and pipelines
    explain, too; empty: none."""
    deadline_seconds: float = 10.0
    """Of a request that sets none; the best explanation by then is the answer."""
    max_rows: int = 200_000
    """Of the model, for one explained row; a request may set less."""


class Card(_Part, frozen=True, kw_only=True):
    """Where the folder comes from."""

    format: int = FORMAT
    headrace: str = ""
    """The version that wrote it."""
    fitted_at: str = ""
    """UTC, ISO 8601."""
    data: str = ""
    """The file's name, or what it was in memory."""
    data_digest: str = ""
    """SHA-256 of the rows as they were read."""
    rows: int = 0
    held_out_rows: int = 0
    model_digest: str = ""
    """SHA-256 of the model's files; empty: it was in memory."""
    files: Mapping[str, str] = EMPTY
    """SHA-256 by name of every other file of the folder; one that differs is refused."""
    answers: Literal["own", "unseen", "out-of-fold"] = "own"
    """What detectors of the model's answers, and estimates of its performance, were fitted to: what it says of these
    rows; what it says of rows that it was not trained on (`unseen`); what clones of it say of rows that they were not
    trained on, as it was trained on these rows itself (`trust.folds`)."""
    answers_told: str = ""
    """The same in words, with how good the answers are."""
    unseen: str = ""
    """The file of rows that the model was not trained on."""
    unseen_rows: int = 0
    unseen_digest: str = ""
    """SHA-256 of these rows as they were read."""
    warnings: tuple[str, ...] = ()
    """What the fit could not do and why."""


# -- the key `trust` of headrace.yaml: what the operator wants of it --


class OutputPolicy(_Part, frozen=True, kw_only=True):
    """How much of an answer a role gets. The same request gets the same answer, so that averaging gains nothing."""

    decimals: int | None = None
    """Numbers that are no labels are rounded to so many decimals; absent: as they are."""
    top_k: int | None = None
    """Only the k largest probabilities of a row stay, the others are 0; absent: all."""
    label_only: bool = False
    """Probabilities are left out; the model answers labels."""


class Validation(_Part, frozen=True, kw_only=True):
    """What is asked of a request by the reference: columns, types, ranges, categories."""

    mode: Guard = "flag"
    """`flag` says what is wrong in the answer's parameters and headers; `reject` answers 422."""
    tolerance: float = 0.1
    """How far outside the range seen in training a number may be, as a share of that range."""


class Extraction(_Part, frozen=True, kw_only=True):
    """What is done about a caller whose queries look like those of somebody who copies the model."""

    actions: tuple[Literal["log", "round", "label_only", "throttle", "block"], ...] = ("log",)
    """One after the other, as the suspicion lasts."""
    window: int = 100
    """Queries between two looks."""
    threshold: float = 0.90
    """Of the Shapiro-Wilk statistic W of distances (PRADA); below it is suspicious."""
    throttle_per_second: float = 1.0
    """Queries of a throttled caller."""
    block_seconds: float = 3600.0
    """How long a blocked caller is refused."""


class Trust(_Part, frozen=True, kw_only=True):
    """The key `trust` of headrace.yaml."""

    enabled: bool = True
    """False: the folder is left alone."""
    path: str = ""
    """The folder, relative to headrace.yaml; empty: `trust` beside the model, or `STEM.trust` beside a file."""
    validation: Validation | None = None
    """Absent: requests are not compared with the reference before they are answered."""
    outputs: Mapping[str, OutputPolicy] = EMPTY
    """By role of the caller; `default` is everybody else's."""
    extraction: Extraction | None = None
    """Absent: nobody is suspected."""
    canaries: Literal["off", "warn", "require"] = "warn"
    """The folder keeps rows with the answers that the model gave when it was fitted; at load the model is asked again.
    When it answers otherwise: `warn` says so in metadata; `require` fails the load."""
    audit: bool = False
    """Whether each query goes to the audit log (`security.audit`)."""
