"""The listener for requests that come by Kafka: *parse, route, await, render* for each message. `app.py` starts it.

Messages are read in batches and answered at the same time, so that the engine merges them; those of one key stay in
their order. What the pump does for them (commits, tries again, dead letters) stands in `brokers.pump`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from headrace.brokers.base import Headers, Outgoing, Record
from headrace.brokers.counts import PumpCounts
from headrace.brokers.pump import Pump
from headrace.brokers.settings import KafkaSettings
from headrace.monitoring import tracing
from headrace.payload import EMPTY, InferenceRequest
from headrace.protocols import kafka
from headrace.server import eager
from headrace.serving.models import Models, Served

_KNOWN: Final = 256
"""Headers of messages whose meaning is kept: most senders write the same ones again and again."""


class KafkaServer:
    """One member of the consumer group: `start` once models are there, `stop` before they go."""

    def __init__(
        self,
        models: Models,
        settings: KafkaSettings,
        *,
        counts: PumpCounts | None = None,
        traces: tracing.Tracing | None = None,
        first_pause_seconds: float = 0.25,
    ) -> None:
        """Store what answers.

        Args:
            models: The routing table.
            settings: Of Kafka.
            counts: Where to count.
            traces: Where to trace; None: nowhere.
            first_pause_seconds: Before a message that failed for a while is tried again; the next pauses are longer.
        """
        self._models, self._settings, self._traces = models, settings, traces
        self.counts = counts if counts is not None else PumpCounts()
        self._pump = Pump(
            settings,
            topics=settings.input_topics,
            group=settings.group,
            handle=self._answer if traces is None else self._answer_traced,
            counts=self.counts,
            dead_letter_topic=settings.dead_letter_topic,
            needs=(settings.output_topic, *settings.reply_topics),
            first_pause_seconds=first_pause_seconds,
            start=eager.start,
        )
        self._known: dict[Headers, kafka.Addressed] = {}

    @property
    def reason(self) -> str:
        """Why messages are not answered now; empty: all is well."""
        return self._pump.reason

    @property
    def assignment(self) -> list[tuple[str, int]]:
        """Topics and partitions that this server reads now."""
        return self._pump.assignment

    async def start(self) -> None:
        """Join the group. A broker that is away is waited for in the background.

        Raises:
            SettingsError: the broker refuses us, or lacks a topic.
        """
        await self._pump.start()

    async def stop(self, drain_seconds: float) -> None:
        """Read no more, answer what is in flight, and leave the group."""
        await self._pump.stop(drain_seconds)

    async def _answer(self, record: Record) -> Sequence[Outgoing]:  # stepped by `eager`: in no task until it waits
        addressed, served, request = self._parse(record)
        response = await served.infer(request)  # type: ignore[misc]  # set while READY
        return (kafka.render(record, addressed, request, response, labels=_labels(served, request)),)

    async def _answer_traced(self, record: Record) -> Sequence[Outgoing]:
        """The same walk, with a span for each step that the server takes itself."""
        headers = {name.lower(): value.decode("utf-8", "replace") for name, value in record.headers}
        about = {"messaging.system": "kafka", "messaging.destination.name": record.topic}
        trace = self._traces.begin("infer", headers, about)  # type: ignore[union-attr]  # set where this is called
        with trace.request():
            started = time.time_ns()
            addressed, served, request = self._parse(record)
            trace.record("parse", started, time.time_ns())
            response = await served.infer(msgspec.structs.replace(request, trace=trace))  # type: ignore[misc]
            started = time.time_ns()
            answer = kafka.render(record, addressed, request, response, labels=_labels(served, request))
            trace.record("render", started, time.time_ns())
            marked = (*(each for each in answer.headers if each[0] != "traceparent"), _traceparent(trace))
            return (msgspec.structs.replace(answer, headers=marked),)

    def _parse(self, record: Record) -> tuple[kafka.Addressed, Served, InferenceRequest]:
        settings = self._settings
        addressed = self._known.get(record.headers)
        if addressed is None:
            addressed = kafka.address(
                record, default_model=settings.model, topic=settings.output_topic, reply_topics=settings.reply_topics
            )
            if len(self._known) >= _KNOWN:  # headers with ids: nothing of them comes again
                self._known.clear()
            self._known[record.headers] = addressed
        served = self._models.route(addressed.model, addressed.version)
        request = kafka.parse(
            record,
            addressed,
            model=served.name,
            version=served.version,
            signature=served.signature,
            deadline=time.monotonic() + settings.request_timeout_seconds,
        )
        return addressed, served, request


def _labels(served: Served, request: InferenceRequest) -> Mapping[str, Sequence[str]]:
    """Class labels by output, where the request asks for outputs in its own form."""
    if not request.outputs or served.signature is None:
        return EMPTY
    return {spec.name: spec.labels for spec in served.signature.outputs if spec.labels}


def _traceparent(trace: tracing.RequestTrace) -> tuple[str, bytes]:
    return "traceparent", trace.context.render().encode()
