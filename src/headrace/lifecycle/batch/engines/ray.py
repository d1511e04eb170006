"""Ray: `ray://HOST:PORT` of a cluster's client server, `ray://auto` on a machine of the cluster, `ray://local[2]` here.

Tasks are Ray's own, several under way for each CPU; Ray starts a task again whose worker died. Rows of files do not
pass through Ray: see `work`.
"""

from __future__ import annotations

import contextlib
import re
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from headrace.errors import MissingExtra, RuntimeFailed, SettingsError, Temporary
from headrace.lifecycle.batch.engines import work
from headrace.lifecycle.batch.engines.base import TICK_SECONDS, answering

_LOCAL: Final = re.compile(r"local(?:\[(\d+|\*)\])?")
_RETRIES: Final = 3
_AHEAD: Final = 2
"""Tasks for each CPU that Ray is given."""


class Ray:
    """A connection to Ray.

    Args:
        address: `HOST:PORT`, `auto`, `local` or `local[N]`.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._is_ours = False
        self._ray: Any = None

    def __repr__(self) -> str:
        return f"Ray({self._address})"

    def open(self) -> None:
        """As of Engine. A connection that this process has already is used, and left."""
        local = _LOCAL.fullmatch(self._address)
        if local is None and self._address != "auto":
            answering("Ray", self._address)
        try:
            import ray
        except ImportError as exc:
            raise MissingExtra("the engine ray needs Ray: pip install 'headrace[ray]'") from exc
        if ray.is_initialized():
            self._ray = ray
            return
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if local is not None:
            # Ray listens on all interfaces unless it is told where
            options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
            if local[1] not in {None, "*"}:
                options["num_cpus"] = int(local[1])
        else:
            options["address"] = self._address if self._address == "auto" else f"ray://{self._address}"
        try:
            ray.init(**options)
        except ValueError as exc:
            raise SettingsError(f"Ray at {self._address}: {exc}") from exc
        except (ConnectionError, RuntimeError, OSError, TimeoutError) as exc:
            raise Temporary(f"Ray at {self._address}: {_first_line(exc)}") from exc
        self._ray, self._is_ours = ray, True

    def run(
        self, tasks: Sequence[bytes], *, tick: Callable[[], None], cancel: threading.Event
    ) -> Sequence[bytes] | None:
        """As of Engine. What Ray prints of its workers meanwhile goes to stderr: stdout is for the outcome."""
        with contextlib.redirect_stdout(sys.stderr):
            return self._run(tasks, tick, cancel)

    def _run(self, tasks: Sequence[bytes], tick: Callable[[], None], cancel: threading.Event) -> Sequence[bytes] | None:
        ray = self._ray
        remote = ray.remote(num_cpus=1, max_retries=_RETRIES, scheduling_strategy="SPREAD")(work.work)
        window = _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
        found: dict[int, bytes] = {}
        waiting: dict[Any, int] = {}
        left = iter(enumerate(tasks))
        try:
            while len(found) < len(tasks):
                if cancel.is_set():
                    return None
                while len(waiting) < window and (following := next(left, None)) is not None:
                    number, task = following
                    waiting[remote.remote(task)] = number
                ready, _ = ray.wait(list(waiting), num_returns=1, timeout=TICK_SECONDS)
                for each in ready:
                    found[waiting.pop(each)] = ray.get(each)
                tick()
        except ray.exceptions.RayTaskError as exc:
            raise RuntimeFailed(f"Ray at {self._address}: {_first_line(exc.cause or exc)}") from exc
        except ray.exceptions.WorkerCrashedError as exc:
            raise RuntimeFailed(
                f"Ray at {self._address}: a task ended its worker {_RETRIES + 1} times: {_first_line(exc)}"
            ) from exc
        except (ray.exceptions.RayError, ConnectionError) as exc:
            raise Temporary(f"Ray at {self._address}: {_first_line(exc)}") from exc
        finally:
            for each in waiting:
                ray.cancel(each)
        return [found[number] for number in range(len(tasks))]

    def close(self) -> None:
        """As of Engine."""
        found, self._ray = self._ray, None
        if found is not None and self._is_ours:
            found.shutdown()


def _first_line(error: BaseException) -> str:
    return next((line.strip()[:500] for line in str(error).splitlines() if line.strip()), type(error).__name__)
