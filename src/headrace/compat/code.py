"""People's own functions and classes: found by reference, constructed, called without harm to the loop.

Combiners and routers of pipelines load what `custom` names; the runtime `seldon_v1` its components. The modules are
kept apart by `runtimes.own_code.OwnCode`, which callers give (this room is below it): neighbours of a file are
importable, and folders with modules of one name do not meet.

Where a call runs (`Call`). A coroutine function is awaited. A plain function runs in a thread of its own, one call at a
time, until it has shown to be quick: after `TRIALS` calls within `QUICK_SECONDS` each it runs on the loop, where a call
costs no hand-over, and goes back to the thread when one takes longer than `SLOW_SECONDS`. An attribute `inline` of the
function or class says it at once (True: on the loop, always; False: never), and `concurrent = True` that several
threads may call it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import threading
import time
import types
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, Protocol

from headrace import compat
from headrace.errors import (
    HeadraceError,
    LoadFailed,
    ModelError,
    Overloaded,
    RuntimeFailed,
    SettingsError,
    UnsafeArtifact,
    unknown_key,
)

QUICK_SECONDS: Final = 0.0002
"""Up to here a call is cheaper on the loop than handed to a thread and back."""
SLOW_SECONDS: Final = 0.002
"""Beyond this a call on the loop keeps other requests waiting for longer than a hand-over costs."""
TRIALS: Final = 16
_WAITING: Final = 1024
"""Calls that may wait for the one thread; more are refused."""
_REFUSED: Final = "if you trust whoever wrote it, start the server with `--load-policy trusted`"


class Code(Protocol):
    """The modules of one folder; `runtimes.own_code.OwnCode` is one."""

    def importable(self) -> AbstractContextManager[None]:
        """While code of the folder is imported or may import."""

    def file(self, file: Path) -> types.ModuleType:
        """A file as a module. Raises LoadFailed."""

    def module(self, name: str) -> types.ModuleType:
        """A module by name, the folder's own first. Raises LoadFailed."""

    def forget(self) -> None:
        """Give back what was imported."""


Codes = Callable[[Path | None], Code]
"""From a folder to its modules: `OwnCode` itself."""


class Own:
    """Somebody's function or object, loaded.

    Attributes:
        name: The reference, for messages.
        found: The function, with its parameters bound; or the object, constructed and loaded.
    """

    def __init__(self, name: str, found: Any, code: Code | None) -> None:
        self.name, self.found, self._code = name, found, code

    def offers(self, method: str) -> bool:
        """Whether the object has such a method."""
        return callable(getattr(self.found, method, None))

    def importable(self) -> AbstractContextManager[None]:
        """While its code may import neighbours in other ways than by `import` statements of its modules."""
        return contextlib.nullcontext() if self._code is None else self._code.importable()

    def close(self) -> None:
        """Call its `unload`, where it has one, and forget its modules."""
        try:
            if self.offers("unload"):
                self.found.unload()
        finally:
            if self._code is not None:
                self._code.forget()


def load(
    reference: str,
    *,
    base: str,
    parameters: Mapping[str, Any] | Callable[[Any], Mapping[str, Any]],
    code: Codes | None,
    allowed: tuple[str, ...] | None = None,
) -> Own:
    """Import what a reference names. A class is constructed with the parameters and its `load` called; of a function
    the parameters are keyword arguments of every call. Blocks.

    Args:
        reference: `module:name` or `file.py:name`.
        base: The folder of the manifest; files and modules are looked for there first. Empty: the working folder.
        parameters: What the class or function takes; or what says so when it is asked with it.
        code: Gives the modules of a folder; None: nothing here may run people's code.
        allowed: None: whoever wrote the code is trusted (`security.load_policy`); otherwise it is refused.

    Raises:
        LoadFailed: there is no such file, module or name; what its code raises is chained.
        UnsafeArtifact: nobody is trusted to run code here.
        SettingsError: a parameter that it does not take, or one that it misses.
    """
    place, _, attribute = reference.rpartition(":")
    if not place or not attribute:
        raise LoadFailed(f"{reference!r} names no function or class; expected module:name or file.py:name")
    if allowed is not None or code is None:
        raise UnsafeArtifact(f"{reference} is Python code, which the load policy refuses to run; {_REFUSED}")
    folder = Path(base).absolute() if base else Path.cwd()
    file = (folder / place).absolute() if place.endswith(".py") else None
    compat.stand_in()  # a class may be written for another server
    modules = code(file.parent if file is not None else folder)
    try:
        with modules.importable():
            found: Any = modules.file(file) if file is not None else modules.module(place)
            for name in attribute.split("."):
                found = _member(found, name, place)
            made = _made(found, reference, parameters(found) if callable(parameters) else parameters)
    except BaseException:
        modules.forget()
        raise
    return Own(reference, made, modules)


def loaded_object(found: Any, parameters: Mapping[str, Any]) -> Own:
    """The same of a class, function or object that is in memory already. Raises as `load` does."""
    kind = found if isinstance(found, type) else type(found)
    name = f"{kind.__module__}:{kind.__qualname__}"
    return Own(name, _made(found, name, parameters), None)


def _member(found: Any, name: str, place: str) -> Any:
    if not hasattr(found, name):
        raise LoadFailed(f"{place} has no {name!r}; it has {', '.join(_public(found)) or 'nothing'}")
    return getattr(found, name)


def _made(found: Any, reference: str, parameters: Mapping[str, Any]) -> Any:
    if not callable(found):
        if parameters:
            raise SettingsError(f"{reference} is an object already, so it takes no parameters; came {[*parameters]}")
        return found
    _check(found, reference, parameters)
    if not isinstance(found, type):
        return functools.partial(found, **parameters) if parameters else found
    if inspect.iscoroutinefunction(getattr(found, "load", None)):
        raise LoadFailed(f"{reference}: load is async; expected a plain method, as nothing waits for it")
    try:
        made = found(**parameters)
        begin = getattr(made, "load", None)
        if callable(begin):
            begin()
    except HeadraceError:
        raise
    except Exception as error:
        raise LoadFailed(f"{reference} cannot be loaded: {type(error).__name__}: {error}") from error
    return made


def _check(found: Callable[..., Any], reference: str, parameters: Mapping[str, Any]) -> None:
    """That it takes these parameters, and a class no others."""
    try:
        known = inspect.signature(found).parameters
    except (ValueError, TypeError):  # of a class written in C
        return
    if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values()):
        for key in parameters:
            if key not in known:
                raise unknown_key(key, known, where=f"parameters of {reference}")
    if not isinstance(found, type):
        return
    absent = [
        name
        for name, each in known.items()
        if each.default is inspect.Parameter.empty
        and each.kind in {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
        and name not in parameters
    ]
    if absent:
        raise SettingsError(f"{reference} needs {', '.join(absent)}: say it under `parameters`")


def _public(found: Any) -> list[str]:
    return sorted(name for name, each in vars(found).items() if callable(each) and not name.startswith("_"))


# -- calls --


class Call:
    """A function of somebody's, to be awaited from the loop. Nothing is started before the first call."""

    def __init__(self, function: Callable[..., Any], *, name: str, owner: Any = None) -> None:
        """Store.

        Args:
            function: What is called.
            name: Of it, in messages.
            owner: The object whose method it is: may say `inline` and `concurrent` too.
        """
        inner = function.func if isinstance(function, functools.partial) else function
        says = [getattr(each, "inline", None) for each in (inner, owner)]
        self._said = next((each for each in says if isinstance(each, bool)), None)
        self._concurrent = any(getattr(each, "concurrent", False) is True for each in (inner, owner))
        self._awaits = inspect.iscoroutinefunction(inner)
        self._function, self._name = function, name
        self._quick = 0
        self._waiting = 0
        self._busy = threading.Lock()
        self._thread: ThreadPoolExecutor | None = None

    @property
    def inline(self) -> bool:
        """Whether the next call would run on the loop."""
        return self._awaits or (self._quick >= TRIALS if self._said is None else self._said)

    async def __call__(self, *arguments: Any) -> Any:
        """What the function gives.

        Raises:
            ModelError: it raised an exception that carries an HTTP status (`status_code`, as Seldon's do).
            RuntimeFailed: it raised anything else that is not ours.
            Overloaded: too many calls wait for its thread.
        """
        try:
            if self._awaits:
                return await self._function(*arguments)
            if self.inline and (self._concurrent or self._busy.acquire(blocking=False)):
                given = self._timed(arguments)
            else:
                given = await self._threaded(arguments)
            return await given if inspect.isawaitable(given) else given
        except HeadraceError:
            raise
        except Exception as error:
            raise translated(self._name, error) from error

    def _timed(self, arguments: tuple[Any, ...]) -> Any:
        begun = time.perf_counter()
        try:
            return self._function(*arguments)
        finally:
            taken = time.perf_counter() - begun
            if taken > (SLOW_SECONDS if self._quick >= TRIALS else QUICK_SECONDS):
                self._quick = 0
            elif self._quick < TRIALS:
                self._quick += 1
            if not self._concurrent:
                self._busy.release()

    async def _threaded(self, arguments: tuple[Any, ...]) -> Any:
        if self._concurrent:
            return await asyncio.to_thread(self._timed, arguments)
        if self._waiting >= _WAITING:
            raise Overloaded(f"{self._name}: {_WAITING} calls wait for it already")
        if self._thread is None:  # its thread ends with it
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="headrace-code")
        context = contextvars.copy_context()
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._locked, context, arguments)
        finally:
            self._waiting -= 1

    def _locked(self, context: contextvars.Context, arguments: tuple[Any, ...]) -> Any:
        self._busy.acquire()  # free but for a call that runs on the loop; `_timed` releases it
        return context.run(self._timed, arguments)


def translated(name: str, error: Exception) -> HeadraceError:
    """Our error for what somebody's code raised; one that carries an HTTP status keeps it."""
    status = getattr(error, "status_code", None)
    kind = type(error).__name__
    text = str(getattr(error, "message", "") or error)
    if isinstance(status, int) and not isinstance(status, bool) and 400 <= status <= 599:
        return ModelError(
            f"{name}: {text or kind}", status=status, kind=f"{type(error).__module__}.{type(error).__qualname__}"
        )
    return RuntimeFailed(f"{name}: {kind}: {text}" if text else f"{name}: {kind}")
