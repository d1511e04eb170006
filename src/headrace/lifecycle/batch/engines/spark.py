"""Spark: `spark://HOST:PORT` of a standalone master, `spark://local[2]` in this process, `spark://yarn`.

Tasks are rows of a data frame, one for each partition, through `mapInArrow`: a Python worker of an executor gets a
number as Arrow and gives a mark as Arrow. Rows of files do not pass through Spark: see `work`.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from headrace.errors import HeadraceError, MissingExtra, RuntimeFailed, SettingsError, Temporary
from headrace.lifecycle.batch.engines import work
from headrace.lifecycle.batch.engines.base import TICK_SECONDS, answering

_GROUP: Final = "headrace-batch"
_SCHEMA: Final = "number long, mark binary"
_MASTERS: Final = ("local", "yarn", "k8s://", "spark://")


class Spark:
    """A Spark session.

    Args:
        address: `HOST:PORT`, or another master: `local[2]`, `yarn`.
    """

    def __init__(self, address: str) -> None:
        self._master = address if address.startswith(_MASTERS) else f"spark://{address}"
        self._session: Any = None
        self._is_ours = False

    def __repr__(self) -> str:
        return f"Spark({self._master})"

    def open(self) -> None:
        """As of Engine. A session that this process has already is used, and left."""
        if self._master.startswith("spark://"):
            answering("Spark", self._master.removeprefix("spark://"))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pandas, which is not used here
                from pyspark.errors import PySparkRuntimeError
                from pyspark.sql import SparkSession
        except ImportError as exc:
            raise MissingExtra("the engine spark needs pyspark: pip install 'headrace[spark]'") from exc
        self._is_ours = SparkSession.getActiveSession() is None
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # the only way to say it outside of spark-submit
        root = str(Path(__file__).resolve().parents[4])
        path = os.pathsep.join(dict.fromkeys((root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))))
        builder = (
            SparkSession.builder.master(self._master)
            .appName("headrace batch")
            .config("spark.executorEnv.PYTHONPATH", path)
            .config("spark.ui.showConsoleProgress", "false")
            .config("spark.executorEnv.PYTHONWARNINGS", "ignore::FutureWarning")
            .config("spark.python.worker.reuse", "true")
        )
        if self._master.startswith("local"):  # nobody else is to reach it
            builder = builder.config("spark.ui.enabled", "false").config("spark.driver.host", "127.0.0.1")
            builder = builder.config("spark.driver.bindAddress", "127.0.0.1")
        try:
            self._session = builder.getOrCreate()
            self._session.range(0, 1).count()  # a master that is not there is only told by work
        except PySparkRuntimeError as exc:
            raise SettingsError(
                f"Spark cannot start: it needs Java 17, and JAVA_HOME or java to find it: {exc}"
            ) from exc
        except Exception as exc:
            raise self._failure(exc, Temporary) from exc

    def run(
        self, tasks: Sequence[bytes], *, tick: Callable[[], None], cancel: threading.Event
    ) -> Sequence[bytes] | None:
        """As of Engine."""
        found: dict[int, bytes] = {}
        raised: list[Exception] = []
        over = threading.Event()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pandas, which is not used here
            numbers = self._session.range(0, len(tasks), 1, len(tasks))
            marks = numbers.mapInArrow(functools.partial(mapped, list(tasks)), _SCHEMA)

        def collect() -> None:
            try:
                self._session.sparkContext.setJobGroup(_GROUP, "headrace batch", interruptOnCancel=True)
                for row in marks.collect():
                    found[row.number] = bytes(row.mark)
            except Exception as exc:  # noqa: BLE001 - it is raised where it is waited for
                raised.append(exc)
            finally:
                over.set()

        thread = threading.Thread(target=collect, name="headrace-spark", daemon=True)
        thread.start()
        while not over.wait(TICK_SECONDS):
            if cancel.is_set():
                self._session.sparkContext.cancelJobGroup(_GROUP)
            tick()
        thread.join()
        if cancel.is_set():
            return None
        if raised:
            raise self._failure(raised[0], RuntimeFailed) from raised[0]
        return [found[number] for number in range(len(tasks))]

    def _failure(self, error: Exception, kind: type[HeadraceError]) -> HeadraceError:
        java = getattr(error, "java_exception", None)
        text = str(java.getMessage() if java is not None else error)
        first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
        return kind(f"Spark at {self._master}: {first[:500]}")

    def close(self) -> None:
        """As of Engine."""
        session, self._session = self._session, None
        if session is not None and self._is_ours:
            session.stop()


def mapped(tasks: Sequence[bytes], batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """On a worker: numbers of tasks to their marks."""
    for batch in batches:
        for number in batch.column(0).to_pylist():
            mark = work.work(tasks[number])
            yield pa.RecordBatch.from_arrays(
                [pa.array([number], pa.int64()), pa.array([mark], pa.binary())], ["number", "mark"]
            )
