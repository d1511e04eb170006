"""Bases of component classes, and the response by which they answer more than data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .flask_utils import SeldonMicroserviceException


class SeldonNotImplementedError(SeldonMicroserviceException):
    """The component does not offer the method: another form of it is asked, or the data pass through."""

    status_code = 400

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="MICROSERVICE_BAD_METHOD")


class SeldonResponse:
    """Data with tags and metrics of this one answer."""

    def __init__(
        self, data: Any, tags: dict[str, Any] | None = None, metrics: list[dict[str, Any]] | None = None
    ) -> None:
        self.data = data
        self.tags = tags if tags is not None else {}
        self.metrics = metrics if metrics is not None else []

    @classmethod
    def create(cls, data: Any) -> SeldonResponse:
        """Data as a response, which it may be already."""
        return data if isinstance(data, SeldonResponse) else cls(data=data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SeldonResponse) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment] # as the original: equal by what it holds

    def __repr__(self) -> str:
        return f"SeldonResponse({self.data!r}, tags={self.tags!r}, metrics={self.metrics!r})"


class SeldonComponent:
    """The base that component classes may have; every method is one that they may leave out."""

    def __init__(self, **kwargs: Any) -> None:
        pass

    def load(self) -> None:
        """Called once, before the first request."""

    def tags(self) -> dict[str, Any]:
        """What goes into `meta.tags` of every answer."""
        raise SeldonNotImplementedError("tags is not implemented")

    def class_names(self) -> Iterable[str]:
        """Names of the columns of an answer."""
        raise SeldonNotImplementedError("class_names is not implemented")

    def feature_names(self) -> Iterable[str]:
        """Names of the columns that a transformer gives."""
        raise SeldonNotImplementedError("feature_names is not implemented")

    def metrics(self) -> list[dict[str, Any]]:
        """What was measured since the last call."""
        raise SeldonNotImplementedError("metrics is not implemented")

    def predict(self, X: Any, names: Iterable[str], meta: dict[str, Any] | None = None) -> Any:  # noqa: N803 - Seldon's
        """The model's answer to features."""
        raise SeldonNotImplementedError("predict is not implemented")

    def predict_raw(self, msg: Any) -> Any:
        """The answer to a whole message."""
        raise SeldonNotImplementedError("predict_raw is not implemented")

    def transform_input(self, X: Any, names: Iterable[str], meta: dict[str, Any] | None = None) -> Any:  # noqa: N803 - Seldon's
        """What goes on to the children."""
        raise SeldonNotImplementedError("transform_input is not implemented")

    def transform_input_raw(self, msg: Any) -> Any:
        """The same of a whole message."""
        raise SeldonNotImplementedError("transform_input_raw is not implemented")

    def transform_output(self, X: Any, names: Iterable[str], meta: dict[str, Any] | None = None) -> Any:  # noqa: N803 - Seldon's
        """What comes back from the children, changed."""
        raise SeldonNotImplementedError("transform_output is not implemented")

    def transform_output_raw(self, msg: Any) -> Any:
        """The same of a whole message."""
        raise SeldonNotImplementedError("transform_output_raw is not implemented")

    def route(self, features: Any, feature_names: Iterable[str]) -> Any:
        """The number of the child to ask; -1: all; -2: none."""
        raise SeldonNotImplementedError("route is not implemented")

    def route_raw(self, msg: Any) -> Any:
        """The same of a whole message."""
        raise SeldonNotImplementedError("route_raw is not implemented")

    def aggregate(self, features_list: list[Any], feature_names_list: list[Any]) -> Any:
        """One answer of those of all children."""
        raise SeldonNotImplementedError("aggregate is not implemented")

    def aggregate_raw(self, msgs: Any) -> Any:
        """The same of whole messages."""
        raise SeldonNotImplementedError("aggregate_raw is not implemented")

    def send_feedback(
        self, features: Any, feature_names: Iterable[str], reward: float, truth: Any, routing: int | None = None
    ) -> Any:
        """What an answer was worth."""
        raise SeldonNotImplementedError("send_feedback is not implemented")

    def send_feedback_raw(self, feedback: Any) -> Any:
        """The same of a whole message."""
        raise SeldonNotImplementedError("send_feedback_raw is not implemented")

    def health_status(self) -> Any:
        """Anything that shows that the component works."""
        raise SeldonNotImplementedError("health_status is not implemented")

    def health_status_raw(self) -> Any:
        """The same as a whole message."""
        raise SeldonNotImplementedError("health_status_raw is not implemented")

    def init_metadata(self) -> dict[str, Any]:
        """What the component says of its inputs and outputs."""
        raise SeldonNotImplementedError("init_metadata is not implemented")
