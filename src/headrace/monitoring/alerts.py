"""When verdicts become an alert: one small state machine per detector. The watcher's process asks it after each window.

`ok`: no drift among the last windows. `warning`: drift in some of them, not in enough. `drift`: at least `at_least` of
the last `windows` were drift; this is the alert. `cooling`: an alert was given less than `cooldown_seconds` ago;
windows count, and nobody is told.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec
import orjson

from headrace.errors import LoadFailed
from headrace.trust.spec import Alert

State = Literal["ok", "warning", "drift", "cooling"]

MOVES: Final[Mapping[State, frozenset[State]]] = MappingProxyType(
    {
        "ok": frozenset({"warning", "drift"}),
        "warning": frozenset({"ok", "drift"}),
        "drift": frozenset({"cooling", "ok", "warning", "drift"}),
        "cooling": frozenset({"ok", "warning", "drift"}),
    }
)
"""What a window may turn each state into. From `drift`, all but `cooling` need a cool-down that is already over."""
REMEMBERED: Final = 256
"""Windows that are recognised when they come again, as they do after a restart from a snapshot."""


def idempotency_key(model: str, version: str, detector: str, window: str) -> str:
    """The same for the same alert, whoever computes it and how often: 32 hexadecimal digits."""
    return hashlib.sha256(orjson.dumps([model, version, detector, window])).hexdigest()[:32]


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """What a window changed."""

    before: State
    after: State
    is_alert: bool
    """Whether somebody is to be told."""
    windows: tuple[str, ...] = ()
    """Of an alert: the ids of the windows with drift that gave it, the oldest first."""
    key: str = ""
    """Of an alert: its idempotency key."""
    at: float


class _Saved(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    state: State
    alerted_at: float | None
    recent: list[tuple[str, bool]]
    seen: list[str]


class Alerts:
    """The state of one detector of one version of a model.

    Args:
        spec: How many windows of how many, and the cool-down.
        model: For the idempotency key, as the next two.
        version: Of the model.
        detector: Its name.

    Raises:
        LoadFailed: the numbers can never be met.
    """

    def __init__(self, spec: Alert, *, model: str = "", version: str = "", detector: str = "") -> None:
        if not 1 <= spec.at_least <= spec.windows:
            raise LoadFailed(
                f"detector '{detector}': an alert at {spec.at_least} of {spec.windows} windows can never be; "
                "at_least must be from 1 to windows"
            )
        self._spec = spec
        self._model, self._version, self._detector = model, version, detector
        self._state: State = "ok"
        self._alerted_at: float | None = None
        self._recent: deque[tuple[str, bool]] = deque(maxlen=spec.windows)  # since the last alert
        self._seen: deque[str] = deque(maxlen=REMEMBERED)

    def __repr__(self) -> str:
        drifts = sum(is_drift for _, is_drift in self._recent)
        return f"Alerts({self._state}, {drifts} of {len(self._recent)} windows)"

    @property
    def current(self) -> State:
        """The state after the last window."""
        return self._state

    def take(self, is_drift: bool, *, now: float, window: str) -> Transition | None:
        """Count one window.

        A window counts towards one alert only: after it, counting begins anew, and goes on during the cool-down. So
        drift that stays is told again after each cool-down. An alert is given on a window with drift, never on one
        without.

        Args:
            is_drift: The verdict on it.
            now: Seconds since the epoch. A clock that was set back begins the cool-down anew.
            window: Its id. One that was taken before changes nothing.

        Returns:
            None where the state stays as it is.
        """
        if window in self._seen:
            return None
        self._seen.append(window)
        self._recent.append((window, is_drift))
        if self._alerted_at is not None and now < self._alerted_at:
            self._alerted_at = now
        drifts = tuple(name for name, drift in self._recent if drift)
        if self._alerted_at is not None and now - self._alerted_at < self._spec.cooldown_seconds:
            return self._move("cooling", now)
        if is_drift and len(drifts) >= self._spec.at_least:
            self._alerted_at = now
            self._recent.clear()
            return self._move("drift", now, windows=drifts)
        return self._move("warning" if drifts else "ok", now)

    def _move(self, after: State, now: float, *, windows: tuple[str, ...] = ()) -> Transition | None:
        before, self._state = self._state, after
        if before == after and not windows:
            return None
        key = idempotency_key(self._model, self._version, self._detector, windows[-1]) if windows else ""
        return Transition(before=before, after=after, is_alert=bool(windows), windows=windows, key=key, at=now)

    def state(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        saved = _Saved(state=self._state, alerted_at=self._alerted_at, recent=list(self._recent), seen=list(self._seen))
        found: dict[str, Any] = msgspec.to_builtins(saved)
        return found

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; with another number of windows, with the newest of them.

        Raises:
            LoadFailed: it is no such state.
        """
        try:
            saved = msgspec.convert(dict(state), _Saved)
        except msgspec.ValidationError as exc:
            raise LoadFailed(f"detector '{self._detector}': the saved state of its alerts is none: {exc}") from exc
        self._state, self._alerted_at = saved.state, saved.alerted_at
        self._recent = deque(saved.recent, maxlen=self._spec.windows)
        self._seen = deque(saved.seen, maxlen=REMEMBERED)
