"""Batch on upload as a function of AWS Lambda: an event of S3 in, an output object out, the model from its own bucket.

What `headrace batch aws-lambda` writes makes a `Handler` once for each environment, when it is imported, and Lambda
calls it with events. The model is loaded by the first call and stays; its files stay in `/tmp`, which outlives calls.

Events may come twice, late, or for objects that are gone: each is looked at, and what has an output is left alone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from headrace.artifacts import objects as objects_
from headrace.artifacts import uri
from headrace.artifacts.settings import ArtifactSettings
from headrace.errors import ArtifactNotFound, HeadraceError, InvalidRequest, SettingsError
from headrace.lifecycle.batch.base import Job, Outcome, Predictor
from headrace.lifecycle.watch import answers, events, places
from headrace.lifecycle.watch.events import ObjectCreated, Parsed
from headrace.lifecycle.watch.watch import Stopped, etag_of

log = logging.getLogger(__name__)

_SPARE_SECONDS: Final = 10.0
"""Before Lambda would end a call, it is stopped: then it can say so."""


class Function(msgspec.Struct, frozen=True, kw_only=True):
    """What a function does: JSON beside its code."""

    job: Job
    """Its `inputs` are not looked at."""
    inputs: tuple[str, ...] = ()
    """Objects elsewhere are left alone; empty: all that Lambda is called for."""
    name: str = "{path}"
    """Of outputs, as `places.output_path` has it."""


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What a call says of one object, in its result and in the log."""

    uri: str
    state: str
    """`done`, `gone`, or `ignored`."""
    output: str = ""
    outcome: Outcome | None = None


class Handler:
    """What Lambda calls.

    Args:
        function: What to do.
        open_predictor: Loads the model; called once, by the first event.
        settings: Of stores.

    Raises:
        SettingsError: what is to be done cannot be.
    """

    def __init__(
        self,
        function: Function,
        *,
        open_predictor: Callable[[Job], Predictor],
        settings: ArtifactSettings = ArtifactSettings(),
    ) -> None:
        places.checked_name(function.name)
        self._function, self._open, self._settings = function, open_predictor, settings
        self._watched = [places.watched(each, function.job.output) for each in function.inputs]
        self._predictor: Predictor | None = None

    def __repr__(self) -> str:
        return f"<Handler {uri.shown(self._function.job.model)}{', warm' if self._predictor else ''}>"

    def __call__(self, event: Mapping[str, Any], context: Any = None) -> Mapping[str, Any]:
        """Answer the objects of an event.

        Args:
            event: Of S3, SNS, EventBridge; or of SQS, with messages of these.
            context: Lambda's; its remaining time bounds the work.

        Returns:
            Of SQS: `batchItemFailures`, those messages that are to come again (the trigger must have
            `ReportBatchItemFailures`). Otherwise what became of each object.

        Raises:
            HeadraceError: not of SQS: an object cannot be answered. Lambda calls again, twice, and then tells the
                function's destination for failures.
        """
        messages = _messages(event)
        if messages is None:
            return {"objects": [msgspec.to_builtins(each) for each in self._all(event, context)]}
        failures = []
        for message in messages:
            try:
                self._all({"Records": [message]}, context)
            except Exception as exc:  # of one message; the others are answered
                log.log(
                    logging.ERROR, "%s: %s", message.get("messageId"), exc, exc_info=not isinstance(exc, HeadraceError)
                )
                failures.append({"itemIdentifier": str(message.get("messageId", ""))})
        return {"batchItemFailures": failures}

    def _all(self, document: Any, context: Any) -> list[Answered]:
        parsed: Parsed = events.parse_document(document)
        done = []
        for each in parsed.created:
            answered = self._answer(each, context)
            log.info("%s", msgspec.json.encode(answered).decode())
            done.append(answered)
        if parsed.malformed:  # after the rest: this is what makes the event come again, and end as a dead letter
            raise InvalidRequest("; ".join(letter.reason for letter in parsed.malformed))
        return done

    def _answer(self, created: ObjectCreated, context: Any) -> Answered:
        path = self._path(created)
        if not path:
            return Answered(uri=created.uri, state="ignored")
        job = self._function.job
        objects = objects_.open_objects(created.bucket, settings=self._settings)
        try:
            info = objects.head(created.key)
        except ArtifactNotFound:
            return Answered(uri=created.uri, state="gone")
        finally:
            objects.close()
        output = uri.join(job.output, places.output_path(self._function.name, path, etag_of(info), job.output_format))
        outcome = self._in_time(
            context,
            lambda cancel: answers.answer(job, info, output, self._warm(), settings=self._settings, cancel=cancel),
        )
        return Answered(uri=created.uri, state="done", output=uri.shown(output), outcome=outcome)

    def _path(self, created: ObjectCreated) -> str:
        """The object's path, to name its output by; empty: it is not to be answered."""
        if not self._watched:
            # Whatever Lambda is told of is meant, but for what was written here: that would go on without end.
            if created.uri.startswith(places.below(self._function.job.output)):
                raise SettingsError(
                    f"{created.uri} is within the output {uri.shown(self._function.job.output)}: the function would "
                    "call itself without end. Give the trigger a prefix, or write to another bucket"
                )
            every = places.Watched(uri=created.bucket, bucket=created.bucket, prefix="", glob="")
            return every.path(created.bucket, created.key)
        found = (each.path(created.bucket, created.key) for each in self._watched)
        return next((path for path in found if path), "")

    def _warm(self) -> Predictor:
        if self._predictor is None:
            self._predictor = self._open(self._function.job)
        return self._predictor

    @staticmethod
    def _in_time(context: Any, work: Callable[[threading.Event], Outcome]) -> Outcome:
        """Stop the work while there is time to say so.

        Raises:
            SettingsError: there was not enough time.
        """
        cancel = threading.Event()
        left = getattr(context, "get_remaining_time_in_millis", None)
        if left is None:
            return work(cancel)
        timer = threading.Timer(max(0.0, left() / 1000 - _SPARE_SECONDS), cancel.set)
        timer.daemon = True
        timer.start()
        try:
            return work(cancel)
        except Stopped as exc:
            raise SettingsError(
                "the object is too large for the function's time: give it more of it (up to 15 minutes) or more memory "
                "(which brings more cores), or answer such objects with `headrace batch watch`"
            ) from exc
        finally:
            timer.cancel()


def _messages(event: Any) -> Sequence[Mapping[str, Any]] | None:
    """The messages of an event of SQS; None: it is another's."""
    records = event.get("Records") if isinstance(event, Mapping) else None
    if not isinstance(records, list) or not records:
        return None
    if all(isinstance(each, Mapping) and each.get("eventSource") == "aws:sqs" for each in records):
        return records
    return None
