"""The error tree. Every step of a request's walk raises from here, and nothing here knows a wire.

    HeadraceError
    ├── InvalidRequest          parse, decode: the caller's input is wrong; the message says where
    │   ├── UnsupportedEncoding receive: a content encoding we do not speak
    │   ├── InvalidResources    apply: resources that cannot be; carries every fault found
    │   └── Refused             guard: well formed, but not what the model was made for; says why
    ├── Unauthenticated         receive: no key, or none we know
    ├── Forbidden               guard: this caller may not ask this any more
    ├── Conflict                apply: it is right, but not with what is there
    ├── TooLarge                receive, parse: a limit on body, nesting or tensor size
    ├── NotFound                route: a path, method or resource that is not there
    │   └── ModelNotFound       route: no such model, or no such version of it
    ├── NotSupported            route, predict: the model or server cannot do this kind of request
    ├── RuntimeFailed           predict: the model raised, or broke its contract (row counts, names)
    │   └── ModelError          predict: the model's own code ended the request, with a status that it chose
    ├── LoadFailed              load: the model cannot be served; the reason stands in the index
    │   ├── UnknownFormat       load: no runtime recognises the artifact
    │   ├── MissingExtra        load: a library is not installed; names the extra
    │   ├── UnsafeArtifact      load: the load policy refuses a global inside a pickle
    │   └── VersionMismatch     load: written by a library version known to answer wrongly in silence here
    ├── ArtifactFailed          fetch, read, write: the bytes of a uri; says which of the causes below it is
    │   ├── ArtifactNotFound    there is nothing at the uri
    │   ├── ArtifactDenied      the store does not let us: no credentials, wrong ones, or not enough
    │   ├── ArtifactCorrupt     what came is not what was announced: length, digest, archive
    │   └── ArtifactUnreachable the store does not answer, or broke off (also Temporary)
    ├── SettingsError           start: a setting, file or flag is wrong; names the key and the nearest known one
    └── Temporary               trying again later may succeed
        ├── Unreachable         ask: no server answers at an address, or it broke off
        ├── ModelNotReady       route: known, but loading, unloaded or failed
        ├── Overloaded          batch: a bounded queue is full; carries retry_after_seconds
        │   └── Throttled       guard: this caller asks too much; others do not
        ├── DeadlineExceeded    anywhere: the request's deadline has passed
        └── WorkerDied          predict: the process that ran the model ended or hung

A room may have leaves of its own, which it alone tells apart: to all others they are the class above them.

Each protocol owns a table from these classes to its own codes, looked up along the MRO (`protocols.status`).
"""

from __future__ import annotations

import copy
import difflib
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_E = TypeVar("_E", bound="HeadraceError")


class HeadraceError(Exception):
    """Base of every error that Headrace raises on purpose. Its text may be shown to the caller."""


class InvalidRequest(HeadraceError):
    """The caller's input is wrong. The text names the input, what was expected and what came."""


class UnsupportedEncoding(InvalidRequest):
    """The body's content encoding is none of those the server speaks."""


class InvalidResources(InvalidRequest):
    """Resources that cannot be, as they are written. Nothing of what came with them was applied.

    `faults` has one sentence for each: the file, the resource, the field or step, what was expected, what was found.
    """

    def __init__(self, faults: Sequence[str] | str) -> None:
        self.faults = (faults,) if isinstance(faults, str) else tuple(faults)
        super().__init__("\n".join(self.faults))


class Refused(InvalidRequest):
    """A guard refuses rows that the model can read but was not made for. The text names rows, columns and bounds."""


class Unauthenticated(HeadraceError):
    """The caller shows no key where one is needed, or one that nobody knows. The text never repeats it."""


class Forbidden(HeadraceError):
    """The caller is known, and may not do this."""


class Conflict(HeadraceError):
    """What was asked for is right in itself, but not together with what is there now."""


class TooLarge(HeadraceError):
    """A limit on body, nesting depth or tensor size was passed. The text names the limit and its setting."""


class NotFound(HeadraceError):
    """The addressed thing does not exist."""


class ModelNotFound(NotFound):
    """No model of that name, or no such version of it."""


class NotSupported(HeadraceError):
    """The request is well formed, but this model or server cannot do it."""


class RuntimeFailed(HeadraceError):
    """The model raised, or its answer breaks the contract. Foreign exceptions are chained as cause."""


class ModelError(RuntimeFailed):
    """The model's own code ended the request, with a status that it chose (MLServer's `MLServerError` is one).

    `status` is the HTTP status it asks for, 400 to 599; other wires translate it. `kind` is the path of the class that
    the model raised, `mlserver.errors.InferenceError`; empty: not known.
    """

    def __init__(self, message: str, *, status: int = 500, kind: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


class LoadFailed(HeadraceError):
    """A model could not be loaded. The text says why and what would help."""


class UnknownFormat(LoadFailed):
    """No runtime recognises the artifact. The text says what was found."""


class MissingExtra(LoadFailed):
    """A library that the model needs is not installed. The text names the extra to install."""


class UnsafeArtifact(LoadFailed):
    """The load policy refuses to import a global that the artifact names."""


class VersionMismatch(LoadFailed):
    """The artifact was written by a library version known to answer wrongly, in silence, under the installed one."""


class ArtifactFailed(HeadraceError):
    """Bytes at a uri could not be read or written. The text names the uri without any secret, and what would help."""


class ArtifactNotFound(ArtifactFailed):
    """There is nothing at the uri."""


class ArtifactDenied(ArtifactFailed):
    """The store refuses: no credentials, wrong ones, or ones that may not do this. The text names where they came
    from, and never what they are.
    """


class ArtifactCorrupt(ArtifactFailed):
    """What came is not what was announced: its length, its digest, or an archive that cannot be unpacked."""


class SettingsError(HeadraceError):
    """A setting is wrong. The text names file and key, and the nearest known key."""


class Temporary(HeadraceError):
    """The same request may succeed later."""


class Unreachable(Temporary):
    """No server answers at the address, or the connection broke before an answer came."""


class ArtifactUnreachable(ArtifactFailed, Temporary):
    """The store does not answer, is too slow, or broke off; trying again may help."""


class ModelNotReady(Temporary):
    """The model is known but is loading, unloaded or failed."""


class Overloaded(Temporary):
    """A bounded queue is full."""

    def __init__(self, message: str, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Throttled(Overloaded):
    """This caller asks more than it may."""


class DeadlineExceeded(Temporary):
    """The request's deadline passed before its answer was ready."""


class WorkerDied(Temporary):
    """The process that ran the model ended, or hung and was ended, with this request in flight."""


def unknown_key(key: str, known: Iterable[str], *, where: str) -> SettingsError:
    """The error for a key nobody knows: names it, its place, and the nearest known key.

    Args:
        key: What was found.
        known: The keys that would have been understood.
        where: The file or object that holds the key, as a reader would name it.
    """
    names = sorted(known)
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known keys are {', '.join(names)}"
    return SettingsError(f"{where}: unknown key {key!r}{hint}")


def located(error: _E, place: str) -> _E:
    """The same error with its place before its text: the step of a pipeline that failed, a candidate that did."""
    moved = copy.copy(error)
    moved.args = (f"{place}: {error}",)
    moved.__cause__ = error
    return moved
