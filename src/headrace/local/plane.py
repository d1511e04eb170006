"""The control plane of this process, put together: the state file, the loop, the API's listener. `app` starts it beside
the data plane, and gives it what it decides about.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from headrace.control import plan
from headrace.control.events import Event
from headrace.control.parse import File
from headrace.control.resources import Rollout
from headrace.control.service import Control
from headrace.control.store import Store
from headrace.errors import Temporary
from headrace.local.backend import LocalBackend
from headrace.payload import Signature
from headrace.server.control import LIMITS, ControlApi, check_host
from headrace.server.http import HttpServer
from headrace.serving.models import Models
from headrace.settings import ControlSettings

_log = logging.getLogger(__name__)

RolledBack = Callable[[str, str, str, str], None]

MOVED_SECONDS: Final = 1.0
"""How old may be what resources say of memory: models that come and go all the time are looked at together."""
KEEP_SECONDS: Final = 10.0
"""How often what routers have learnt is written down: a kill loses that much of it at most."""


class Plane:
    """What is declared, from the state file to this process.

    Args:
        settings: The section `control`.
        backend: Carries plans out.
        models: The routing table.
        taken: Names of models that the server was started with.
        files: Manifests to apply at the start.
        max_parallel_loads: As the setting.
        rolled_back: Told of a model that a rollout gave up: its name, its version where one is named, who serves on
            (`NAME`, `NAME@REVISION`), and why.
    """

    def __init__(
        self,
        settings: ControlSettings,
        backend: LocalBackend,
        models: Models,
        *,
        taken: Callable[[], Sequence[str]] = tuple,
        files: Sequence[File] = (),
        max_parallel_loads: int = 2,
        rolled_back: RolledBack | None = None,
    ) -> None:
        self._settings, self._backend, self._models, self._files = settings, backend, models, files
        self._store = Store(Path(settings.state))
        if rolled_back is not None:
            self._store.heard = functools.partial(self._heard, rolled_back)
        self.control = Control(
            self._store,
            backend,
            signatures=self._signatures,
            taken=taken,
            loads=max_parallel_loads,
        )
        self._api = ControlApi(self.control, backend, token=settings.token)
        self._listener = HttpServer(self._api, limits=LIMITS)
        self.port: int | None = None
        self._learning: asyncio.Task[None] | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._kept: dict[str, Any] = {}

    async def open(self) -> None:
        """Read the state file and listen.

        Raises:
            SettingsError: the file cannot be used, or other machines would reach the API without a token.
            OSError: the address is taken.
        """
        check_host(self._settings.host, self._settings.token)
        await asyncio.to_thread(self._store.open)
        self._models.starting = True
        self.port = await self._listener.start(self._settings.host, self._settings.port)

    async def start(self) -> None:
        """Begin to make what is declared so, with the manifests applied, and return when all that can be is done.

        Raises:
            InvalidResources: a manifest is wrong; nothing of what came with it was applied.
        """
        self._backend.changed = self.control.changed
        self._backend.recalled = await asyncio.to_thread(self._store.learnt)
        self._learning = asyncio.create_task(self._keep_learning(), name="keep what routers learn")
        if self._files:
            await self.control.apply(self._files, who="serve -f")
        await self.control.start()
        await self.control.settled()
        self._models.starting = False

    def unready(self) -> list[tuple[str, str]]:
        """What is declared and not ready, as `pipeline/shop`, with the reason."""
        found = []
        for (kind, name), resource in sorted(self._store.resources.items()):
            ready = next((each for each in resource.status.conditions if each.type == "Ready"), None)
            if ready is not None and ready.status != "True":
                found.append((f"{kind.lower()}/{name}", f"{ready.reason}: {ready.message}".removesuffix(": ")))
        return found

    def moved(self, model: str) -> None:
        """A model left memory, or came back: its resource says so soon."""
        self._backend.moved(model)
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(MOVED_SECONDS, self._look)

    def _look(self) -> None:
        self._looking = None
        self._backend.changed()

    async def stop(self) -> None:
        """End the API and the loop; what is served goes on."""
        self._api.close()
        if self._looking is not None:
            self._looking.cancel()
        if self._learning is not None:
            self._learning.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._learning
            await self._keep_learnt()
        if self.port is not None:
            await self._listener.stop(1.0)
        self._backend.changed = _nobody
        await self.control.stop()
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self._store.close)

    async def close(self) -> None:
        """Take pipelines and splits away."""
        await self._backend.close()

    async def _keep_learning(self) -> None:
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            await self._keep_learnt()

    async def _keep_learnt(self) -> None:
        learnt = self._backend.learnt()
        if learnt == self._kept:
            return
        try:
            await asyncio.to_thread(self._store.keep_learnt, learnt)
        except (OSError, sqlite3.Error, Temporary) as error:
            _log.warning("what routers have learnt cannot be kept: %s", error)
        else:
            self._kept = learnt

    def _heard(self, rolled_back: RolledBack, event: Event) -> None:
        """Tell of a rollout that gave its candidate up. It warns of other things too: a split that cannot be made."""
        found = self._store.resources.get(event.key) if event.kind == "Rollout" and event.type == "Warning" else None
        if found is None or not isinstance(found.spec, Rollout) or found.spec.resource_type != "model":
            return
        progress = plan.progress_of(found)
        if progress is not None and (progress.state, progress.reason) == ("RolledBack", event.reason):
            candidate, _, version = found.spec.candidate.partition("@")
            rolled_back(candidate, version, found.spec.stable, f"{event.reason}: {event.message}")

    def _signatures(self) -> Mapping[str, Signature]:
        return {
            served.name: served.signature
            for served in self._models
            if served.kind == "model" and served.signature is not None
        }


def _nobody() -> None:
    """Nobody is told."""
