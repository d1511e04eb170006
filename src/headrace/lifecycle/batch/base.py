"""The nouns of a batch job: what is to be done (`Job`), who predicts (`Predictor`), what was done (`Outcome`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from headrace.payload import EMPTY, Signature, Tensor

Format = Literal["csv", "jsonl", "parquet", "arrow"]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A batch job. It is JSON on the wire (`msgspec.json`): Spark and Ray workers and functions get it so."""

    model: str
    """A path or uri of a model; with `url`, its name there."""
    inputs: tuple[str, ...]
    """Files, globs, folders or prefixes, on any store."""
    output: str
    """A file where there is one input file, else a folder or prefix: each input gets one output of its own name."""
    url: str = ""
    """A running server, `http://host:port` or `grpc://host:port`; empty: the model is loaded here."""
    version: str = ""
    """Of the model; empty: the default one."""
    input_format: Format | Literal["auto"] = "auto"
    """`auto`: by suffix, `.gz`, `.zst` and `.bz2` after it included; then by content."""
    names: tuple[str, ...] = ()
    """Of the columns of CSV files whose first line is a row; empty: their first line has them."""
    output_format: Format | Literal["auto"] = "auto"
    """`auto`: by the output's suffix, else as the input."""
    columns: Mapping[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Tensor to the columns that make it up, in order; empty: by the model's signature."""
    keep: tuple[str, ...] = ()
    """Columns that stand in the output beside the answers; `*`: all."""
    id_column: str = ""
    """Kept first, and named in rejects; empty: a column `row` takes its place, a row's number in its file."""
    outputs: tuple[str, ...] = ()
    """Of the model that are written; empty: all."""
    on_error: Literal["reject", "fail"] = "reject"
    """What a bad row does: go to the rejects file, or end the job."""
    max_rejects: int = 0
    """The job ends where more rows are bad; 0: no bound."""
    limit: int = 0
    """Rows of all files together; 0: all."""
    batch_rows: int = 16_384
    """Rows asked at once."""
    threads: int = 0
    """Batches asked at the same time; 0: as many as there are cores."""
    parameters: Mapping[str, str | float | bool] = msgspec.field(default_factory=dict)
    """Of each request."""
    load_policy: Literal["", "auto", "restricted", "trusted"] = ""
    """What a model's pickle may name, as the setting `models.load_policy`, which holds where this is empty."""

    @property
    def model_settings(self) -> Mapping[str, str]:
        """Settings, by key, that the model is loaded under."""
        return {"models.load_policy": self.load_policy} if self.load_policy else {}


class Predictor(Protocol):
    """Who answers rows. `predict` blocks, and may be called from several threads at once."""

    @property
    def name(self) -> str:
        """The model's."""

    @property
    def version(self) -> str:
        """The model's; empty: it has none."""

    @property
    def digest(self) -> str:
        """`sha256:...` of the artifact; empty where it is not known. A server's model may be changed: then it is that
        of the one that was there after the last answer, and so is `version`.
        """

    @property
    def signature(self) -> Signature:
        """What it takes and gives."""

    def predict(
        self,
        inputs: Sequence[Tensor],
        parameters: Mapping[str, str | float | bool] = EMPTY,
        outputs: Sequence[str] = (),
    ) -> Sequence[Tensor]:
        """Answers of a batch: each tensor has as many rows as the inputs have. No outputs named: the default ones.

        Raises:
            InvalidRequest: a row cannot be read by the model; which one is not known.
            Temporary: trying again may help.
            RuntimeFailed: the model failed.
        """

    def close(self) -> None:
        """Unload it. Twice is once."""


class Reject(msgspec.Struct, frozen=True, kw_only=True):
    """A row that could not be answered."""

    file: str
    """The uri of its file, without secrets."""
    row: int
    """From 0, the header of a CSV file not counted."""
    line: int = 0
    """From 1, in text files; 0: not known."""
    id: str = ""
    """Of `Job.id_column`; empty: it has none that can be read, and `file` and `row` name it."""
    reason: str
    """What was expected, what came."""
    text: str = ""
    """The row as it stood, shortened."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A file of several that could not be answered at all: it cannot be read, or its columns do not fit."""

    file: str
    """Its uri, without secrets."""
    reason: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a job, or the part of it that was one file, has done."""

    rows: int = 0
    """Read."""
    answered: int = 0
    rejected: int = 0
    files: int = 0
    bytes: int = 0
    """Read."""
    seconds: float = 0.0
    """In this run."""
    resumed_rows: int = 0
    """Of `rows`, those that an earlier run had done."""
    outputs: tuple[str, ...] = ()
    """Uris that were written: answers, rejects, manifests."""
    finished_before: int = 0
    """Of `files`, those that an earlier run had finished; nothing was done for them now."""
    interrupted: bool = False
    """It was cancelled; the same job goes on where it was."""
    failures: tuple[Failure, ...] = ()
    """Of several files, those that could not be answered at all; they are not among `files`."""

    def __add__(self, other: Outcome) -> Outcome:
        """What two parts of a job have done together."""
        return Outcome(
            rows=self.rows + other.rows,
            answered=self.answered + other.answered,
            rejected=self.rejected + other.rejected,
            files=self.files + other.files,
            bytes=self.bytes + other.bytes,
            seconds=self.seconds + other.seconds,
            resumed_rows=self.resumed_rows + other.resumed_rows,
            outputs=self.outputs + other.outputs,
            finished_before=self.finished_before + other.finished_before,
            interrupted=self.interrupted or other.interrupted,
            failures=self.failures + other.failures,
        )
