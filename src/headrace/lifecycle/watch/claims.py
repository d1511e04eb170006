"""Who answers an object, where several machines watch the same bucket: a small object in the output, written under
conditions that stores check.

A claim is held while its store's etag of it goes on changing: its holder writes it anew from time to time. Who has seen
it stand still for a lease may take it over. No clock of one machine is compared with that of another. Whoever lost a
claim stops; should it have written in the meantime, it wrote the same (`places`).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection
from typing import Final, Literal

import msgspec

from headrace.artifacts.base import Objects
from headrace.errors import ArtifactNotFound
from headrace.lifecycle.batch.base import Outcome
from headrace.lifecycle.watch.places import OWN

_TRIES: Final = 3


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in the store."""

    uri: str
    etag: str
    """Of the object."""
    job: str
    """What is done with it: a digest of model and options."""
    owner: str
    state: Literal["running", "free", "done"]
    beat: int = 0
    """Counted up, so that the bytes change."""
    output: str = ""
    outcome: Outcome | None = None


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """The claim is ours."""

    claim: Claim
    token: str
    """The store's etag of it."""


class Busy(msgspec.Struct, frozen=True, kw_only=True):
    """Another watcher has it, as far as is known."""

    owner: str


class Claims:
    """The claims below an output.

    Args:
        objects: Of the output.
        owner: Us.
        job: What we do.
        lease_seconds: How long a claim must stand still before it may be taken over.
        clock: Seconds that only grow.
    """

    def __init__(
        self, objects: Objects, *, owner: str, job: str, lease_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._objects, self._owner, self._job = objects, owner, job
        self._lease, self._clock = lease_seconds, clock
        self._mutex = threading.Lock()
        self._seen: dict[str, tuple[str, float]] = {}

    def take(self, uri: str, etag: str, *, gone: Collection[str] = ()) -> Held | Busy | Claim:
        """Claim an object.

        Args:
            uri: Of the object.
            etag: Of the object.
            gone: Owners that are known to be no more.

        Returns:
            Held: it is ours. Busy: another has it. A Claim: it is done, by whom and how.

        Raises:
            ArtifactFailed: the store cannot be asked.
        """
        path = _path(uri)
        wanted = Claim(uri=uri, etag=etag, job=self._job, owner=self._owner, state="running")
        for _ in range(_TRIES):
            if (taken := self._put(path, wanted, None)) is not None:  # most are new: one request
                return taken
            standing, token = self._read(path)
            if standing is None:
                continue
            if standing.state == "done" and (standing.etag, standing.job) == (etag, self._job):
                self._forget(path)
                return standing
            if standing.state == "running" and not self._stands_still(path, token, standing.owner, gone):
                return Busy(owner=standing.owner)
            taken = self._put(path, msgspec.structs.replace(wanted, beat=standing.beat + 1), token)
            if taken is not None:
                self._forget(path)
                return taken
        return Busy(owner="others")  # that are quicker each time

    def renew(self, held: Held) -> Held | None:
        """Say that we still are at it; None: it was taken from us. Raises as `take`."""
        claim = msgspec.structs.replace(held.claim, beat=held.claim.beat + 1)
        return self._put(_path(claim.uri), claim, held.token)

    def settle(self, held: Held, *, output: str = "", outcome: Outcome | None = None) -> None:
        """Let go of it. With an outcome, nobody needs to answer the object again. Raises as `take`."""
        state: Literal["free", "done"] = "free" if outcome is None else "done"
        claim = msgspec.structs.replace(
            held.claim, state=state, output=output, outcome=outcome, beat=held.claim.beat + 1
        )
        self._put(_path(claim.uri), claim, held.token)  # taken from us meanwhile: it is another's to say

    def _read(self, path: str) -> tuple[Claim | None, str]:
        try:
            token = self._objects.head(path).etag
            data = self._objects.read(path)
        except ArtifactNotFound:
            return None, ""
        try:
            return msgspec.json.decode(data, type=Claim), token
        except msgspec.DecodeError:
            return Claim(uri="", etag="", job="", owner="", state="free"), token  # not one that we wrote

    def _put(self, path: str, claim: Claim, token: str | None) -> Held | None:
        data = msgspec.json.encode(claim)
        if token is None:
            written = self._objects.put(path, data, if_absent=True)
        else:
            written = self._objects.put(path, data, if_match=token)
        return None if written is None else Held(claim=claim, token=written)

    def _stands_still(self, path: str, token: str, owner: str, gone: Collection[str]) -> bool:
        if owner == self._owner or owner in gone:
            return True
        now = self._clock()
        with self._mutex:
            known, since = self._seen.get(path, ("", now))
            if known != token:
                self._seen[path] = (token, now)
                return False
            return now - since >= self._lease

    def _forget(self, path: str) -> None:
        with self._mutex:
            self._seen.pop(path, None)


def _path(uri: str) -> str:
    return f"{OWN}/claims/{hashlib.sha256(uri.encode()).hexdigest()[:40]}.json"
