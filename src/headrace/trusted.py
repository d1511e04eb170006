"""What stands around a model that has a trust folder: tap, output policy, guards, extraction monitor, audit, and what
explains it. Part of the composition: `app` has one `Trusted`, and asks it at each load.

From the inside: the model (with its cache), the tap, the extraction monitor, the output policy, detectors on the path,
validation, the audit log, and who the caller is. So the watcher sees the model's own answers to what was let through,
and the audit log what each caller was given.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import cast

import msgspec

from headrace.detectors.base import Adversarial, Outlier
from headrace.errors import Forbidden, HeadraceError, LoadFailed
from headrace.monitoring.guard_metrics import GuardMetrics
from headrace.monitoring.trust_metrics import TrustMetrics
from headrace.monitoring.watch import Watch
from headrace.payload import Infer, InferenceRequest, Signature, TensorSpec
from headrace.security import canaries, extraction, guards, output_policy, validation
from headrace.security.audit import Audit, audited
from headrace.security.callers import DEFAULT_ROLE, Callers, identified, who
from headrace.serving.build import RuntimeSpec
from headrace.serving.digest import digest
from headrace.serving.explain import OUTPUT, Explainable, Explaining
from headrace.serving.loaded import Loaded
from headrace.serving.models import Explain, Models, Served, State
from headrace.serving.spec import ModelSpec
from headrace.settings import Settings
from headrace.trust.folder import Folder, find_folder, open_folder
from headrace.trust.rows import Rows
from headrace.trust.spec import DetectorSpec, Extraction, OutputPolicy, Trust

log = logging.getLogger(__name__)

_ALONE = Trust()


Load = Callable[[ModelSpec], Awaitable[Loaded]]


class Around(msgspec.Struct, frozen=True):
    """A model with all that its trust folder and its settings put around it."""

    infer: Infer
    explain: Explain | None = None
    """What explains it; None: it has no explainers."""
    warnings: tuple[str, ...] = ()
    streams: bool = True
    """Whether it may answer in parts: guards look at whole requests and answers, so what they protect may not."""


class Trusted:
    """All models' trust folders, in one server.

    Args:
        settings: The server's.
        models: The routing table.
        callers: Who has a key.
        load: Loads the models that a trust folder names for its detectors.
        guard_metrics: Written to.
        trust_metrics: Written to.
    """

    def __init__(
        self,
        settings: Settings,
        models: Models,
        callers: Callers | None,
        *,
        load: Load,
        guard_metrics: GuardMetrics,
        trust_metrics: TrustMetrics,
    ) -> None:
        self._settings = settings
        self._callers = callers or Callers({})
        self._metrics = guard_metrics
        self._bare: dict[tuple[str, str], Infer] = {}
        self._models, self._load = models, load
        self._named: dict[tuple[str, str], list[tuple[Served, Loaded | None]]] = {}
        self.explaining = Explaining(settings.trust)
        self.watch = Watch(
            settings.trust,
            settings.payloads,
            ask=lambda model, version: self._bare[model, version],
            metrics=trust_metrics,
            server=settings.server.name,
            kafka=settings.kafka,
        )
        _check(settings)
        self._audit: Audit | None = None

    def folder_of(self, spec: ModelSpec) -> Path | None:
        """Where a model's trust folder is; None: it has none, or it is left alone."""
        wanted = spec.trust or _ALONE
        if not (self._settings.trust.enabled and wanted.enabled):
            return None
        if wanted.path:
            return Path(spec.folder, wanted.path)
        return find_folder(Path(spec.path)) if spec.path else None

    def names(self, specs: Sequence[ModelSpec]) -> set[str]:
        """Models that trust folders name: of what is served, and of what will be. Reads small files."""
        named = {served.name for each in self._named.values() for served, _ in each}
        for path in filter(None, map(self.folder_of, specs)):
            with contextlib.suppress(LoadFailed):  # told when the model is loaded
                folder = open_folder(path)
                named |= {folder.explainers.model, *(each.model for each in folder.detectors)} - {""}
        return named

    async def around(self, spec: ModelSpec, infer: Infer, *, bare: Infer, artifact: RuntimeSpec | None) -> Around:
        """Put around a model what belongs there.

        Args:
            spec: The model.
            infer: What is to be wrapped: the model with its cache and form.
            bare: What detectors and explainers ask: nothing but the model.
            artifact: What loads it, for explainers that look into it.

        Raises:
            LoadFailed: the trust folder cannot be used and something that protects the model depends on it, or the
                model is not the one that the folder was made for and that is required.
            SettingsError: the audit log cannot be written.
        """
        wanted = spec.trust or _ALONE
        path = self.folder_of(spec)
        key = spec.name, spec.version
        warnings: list[str] = []
        folder: Folder | None = None
        if path is not None:
            try:
                folder = await asyncio.to_thread(open_folder, path)
            except LoadFailed as error:
                if _protects(wanted):
                    raise
                warnings.append(f"not watched, and not explained: {error}")
                log.warning("%s: %s", spec.describe(), warnings[-1])
        elif _protects(wanted):
            raise LoadFailed(
                f"{spec.describe()}: its settings ask for guards (trust), and there is no trust folder beside it; make "
                "one: headrace trust fit"
            )
        self._bare[key] = bare
        explain: Explain | None = None
        if folder is not None:
            warnings += await self._canaries(spec, wanted, folder, bare)
            if folder.explainers.explainers:
                explain = explainable = self.explaining.add(
                    model=spec.name,
                    version=spec.version,
                    folder=folder.path,
                    infer=bare,
                    artifact=artifact,
                    check=lambda request: self._may_explain(spec, request),
                )
                if wanted.outputs and folder.explainers.model:
                    warnings.append(
                        f"'{folder.explainers.model}' is not served: callers get less than the whole answer by "
                        "trust.outputs, and an explanation says more than that"
                    )
                elif folder.explainers.model:
                    warnings += self._explains(spec, folder.explainers.model, explainable)
            for detector in folder.detectors:
                if detector.model:
                    warnings += await self._detects(spec, folder, detector)
        if folder is not None or self._settings.payloads.mode != "off":
            infer = self.watch.watch(
                model=spec.name, version=spec.version, folder=folder.path if folder is not None else None, infer=infer
            )
        if folder is not None:
            detectors, explainers = len(folder.detectors), len(folder.explainers.explainers)
            log.info("%s: watched by %d detectors, explained by %d methods", spec.describe(), detectors, explainers)
            infer = await self._guarded(spec, wanted, folder, infer, bare)
        elif wanted.outputs:
            infer = output_policy.limited(infer, wanted.outputs, role=_role)
        if wanted.audit:
            infer = audited(infer, self._opened_audit(), model=spec.name, version=spec.version, caller=who)
        if wanted != _ALONE or self._settings.security.keys_file:
            infer = identified(infer, self._callers)
        guarded = wanted.audit or _protects(wanted) or bool(wanted.outputs)
        guarded |= folder is not None and any(each.guard != "off" for each in folder.detectors)
        return Around(infer, explain, tuple(warnings), streams=not guarded)

    async def _canaries(self, spec: ModelSpec, wanted: Trust, folder: Folder, bare: Infer) -> list[str]:
        expected = folder.outputs()
        if wanted.canaries == "off" or expected is None:
            return []
        known = folder.card.model_digest
        changed = bool(known and spec.path) and await asyncio.to_thread(digest, Path(spec.path)) != known
        try:
            said = await canaries.check(
                bare, Rows(folder.schema), folder.reference().x, expected, model=spec.name, version=spec.version
            )
        except HeadraceError as error:
            said = f"it cannot answer the rows that its trust folder recorded: {error}"
        if changed and not said:
            said = "its files are not those that its trust folder was fitted for; fit it again: headrace trust fit"
        if said and wanted.canaries == "require":
            raise LoadFailed(f"{spec.describe()}: {said}")
        if said:
            log.warning("%s: %s", spec.describe(), said)
        return [said] if said else []

    async def _guarded(self, spec: ModelSpec, wanted: Trust, folder: Folder, infer: Infer, bare: Infer) -> Infer:
        """Everything that looks at requests and answers on the way, from the inside."""
        rows, schema = Rows(folder.schema), folder.schema
        name, version = spec.name, spec.version
        if wanted.extraction is not None:
            monitor = await self._monitor(spec, wanted.extraction, folder, bare)
            infer = extraction.monitored(infer, monitor, rows, caller=_caller)
            self._metrics.attach_monitor(name, version, monitor.suspicions)
        if wanted.outputs:
            infer = output_policy.limited(
                infer,
                wanted.outputs,
                role=_role,
                probabilities=schema.output.probabilities,
                classes=schema.classes,
            )
        for detector in folder.detectors:
            if detector.guard == "off":
                continue
            counts: dict[str, int] = {}
            self._metrics.attach(name, version, detector.name, counts)
            fitted = await asyncio.to_thread(folder.detector, detector.name)
            infer = guards.guarded(
                infer,
                rows,
                detector,
                cast("Outlier | Adversarial", fitted),
                counts,
                predict=lambda: guards.predictor(rows, bare, model=name),
            )
        if wanted.validation is not None and wanted.validation.mode != "off" and len(schema.features):
            counts = {}
            self._metrics.attach(name, version, "validation", counts)
            infer = validation.validated(infer, rows, schema.features, wanted.validation, counts)
        return infer

    async def _monitor(self, spec: ModelSpec, wanted: Extraction, folder: Folder, bare: Infer) -> extraction.Monitor:
        rows, x = Rows(folder.schema), folder.reference().x
        if folder.schema.data == "text":
            raise LoadFailed(f"{spec.describe()}: trust.extraction compares rows of numbers, and this model takes text")
        response = await bare(InferenceRequest(model_name=spec.name, inputs=rows.tensors(x), outputs=rows.requested()))
        monitor = extraction.Monitor(spec.name, x, rows.predictions(response.outputs), wanted)
        await asyncio.to_thread(monitor.calibrate)
        return monitor

    def _may_explain(self, spec: ModelSpec, request: InferenceRequest) -> None:
        policies = (spec.trust or _ALONE).outputs
        role = self._callers.who(request.headers).role
        if policies.get(role, policies.get(DEFAULT_ROLE)) not in {None, OutputPolicy()}:
            raise Forbidden(
                f"{spec.describe()}: callers of the role '{role}' get less than the whole answer, and an explanation "
                "says more than that"
            )

    def _explains(self, spec: ModelSpec, name: str, explainable: Explainable) -> list[str]:
        """Serve what explains a model under a name of its own, for gRPC and pipelines."""
        signature = Signature(
            platform="headrace_explainer",
            outputs=(TensorSpec(name=OUTPUT, datatype="BYTES", shape=(-1,), content_type="str"),),
            strict=False,
            properties={"explains": spec.name},
        )
        return self._put(spec, name, explainable.infer(name=name, version=spec.version), signature, None)

    async def _detects(self, spec: ModelSpec, folder: Folder, detector: DetectorSpec) -> list[str]:
        """Serve a detector under a name of its own."""
        loaded = await self._load(
            ModelSpec(
                name=detector.model,
                version=spec.version,
                runtime="detector",
                path=str(folder.path),
                parameters={"detector": detector.name},
                folder=str(folder.path),
                optimize="off",
            )
        )
        return self._put(spec, detector.model, loaded.infer, loaded.signature, loaded)

    def _put(
        self, spec: ModelSpec, name: str, infer: Infer, signature: Signature | None, loaded: Loaded | None
    ) -> list[str]:
        taken = [each for each in self._models.versions(name) if each.version == spec.version and not each.elsewhere]
        if taken:
            return [f"its trust folder names '{name}', which is {taken[0].describe()} already"]
        served = Served(name=name, version=spec.version, infer=infer, signature=signature, elsewhere=True)
        served.placement = "process" if loaded is None else loaded.placement
        self._models.put(served)
        self._models.changed(served, State.READY)
        self._named.setdefault((spec.name, spec.version), []).append((served, loaded))
        return []

    async def forget(self, spec: ModelSpec) -> None:
        """A version is not served any more."""
        self._bare.pop((spec.name, spec.version), None)
        for served, loaded in self._named.pop((spec.name, spec.version), []):
            self._models.forget(served)
            if loaded is not None:
                await loaded.close(0.0)
        self.explaining.forget(spec.name, spec.version)
        self.watch.forget(spec.name, spec.version)
        self._metrics.detach(spec.name, spec.version)

    def _opened_audit(self) -> Audit:
        if self._audit is None:
            audit = Audit(Path(self._settings.security.audit_log))
            audit.open()
            self._audit = audit
        return self._audit

    async def close(self) -> None:
        """Write and end everything."""
        await asyncio.gather(self.watch.close(), self.explaining.close())
        if self._audit is not None:
            await asyncio.to_thread(self._audit.close)


def _check(settings: Settings) -> None:
    """Raises SettingsError for a sink or command that the watcher could not use: better now than in its log."""
    trust, payloads = settings.trust, settings.payloads
    if trust.events or trust.webhook or trust.command:
        from headrace.monitoring.actions import Actions

        Actions(trust, kafka=settings.kafka)
    if payloads.mode != "off":
        from headrace.monitoring.payloads import PayloadLog

        PayloadLog(payloads, kafka=settings.kafka)


def _protects(wanted: Trust) -> bool:
    """Whether a model without its trust folder would be served with less protection than its settings ask for."""
    return bool(
        (wanted.validation is not None and wanted.validation.mode != "off")
        or wanted.extraction is not None
        or wanted.canaries == "require"
        or wanted.path
    )


def _role(request: InferenceRequest) -> str:
    return who(request)[1]


def _caller(request: InferenceRequest) -> str:
    return who(request)[0]
