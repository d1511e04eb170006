"""What every protocol keeps: inherit `ProtocolConformance` in a pytest class, say how to render and parse.

class TestV2Json(ProtocolConformance):
    datatypes = strategies.JSON_DATATYPES

    def parse(self, body):
        return v2_rest.parse(body, model_name="m")

    def through(self, request):
        return v2_rest.parse(v2_rest.render_request(request).body, model_name=request.model_name)

    def answered(self, request, response):
        return v2_rest.parse_response(v2_rest.render(request, response).body)
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.errors import InvalidRequest, NotSupported, TooLarge
from headrace.payload import DTYPES, InferenceRequest, InferenceResponse, Tensor
from headrace.testing import strategies

_checked = settings(
    max_examples=60,
    deadline=None,
    # The same inherited property runs for each protocol, drawing what that one carries.
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)


class ProtocolConformance(abc.ABC):
    """Properties of a wire form in which requests and responses can be rendered and parsed."""

    datatypes: Sequence[str] = tuple(DTYPES)
    """Those the wire form carries."""
    text: bool = False
    """BYTES are UTF-8 text on this wire."""
    infinite: bool = True
    """Infinities survive this wire; NaN always does."""

    @abc.abstractmethod
    def parse(self, body: bytes) -> Any:
        """Parse a request's body."""

    @abc.abstractmethod
    def through(self, request: InferenceRequest) -> InferenceRequest:
        """Render a request as a client does, and parse it."""

    @abc.abstractmethod
    def answered(self, request: InferenceRequest, response: InferenceResponse) -> InferenceResponse:
        """Render a response, and parse it as a client does."""

    @_checked
    @given(st.data())
    def test_a_request_comes_through_as_it_was(self, data: st.DataObject) -> None:
        """A parsed request equals the rendered one, to the last bit of its tensors."""
        request = data.draw(
            strategies.requests(datatypes=self.datatypes, text=self.text, infinite=self.infinite), "request"
        )
        came = self.through(request)
        assert came.model_name == request.model_name
        assert came.id == request.id
        assert [(each.name, dict(each.parameters)) for each in came.outputs] == [
            (each.name, dict(each.parameters)) for each in request.outputs
        ]
        assert {**came.parameters} == {**request.parameters}
        assert_same(came.inputs, request.inputs)

    @_checked
    @given(st.data())
    def test_a_response_comes_through_as_it_was(self, data: st.DataObject) -> None:
        """A parsed response equals the rendered one, to the last bit of its tensors."""
        drawn = {"datatypes": self.datatypes, "text": self.text, "infinite": self.infinite}
        response = data.draw(strategies.responses(**drawn), "response")  # type: ignore[arg-type]  # by keyword
        request = InferenceRequest(model_name=response.model_name, inputs=(), id=response.id)
        came = self.answered(request, response)
        assert (came.model_name, came.model_version, came.id) == (
            response.model_name,
            response.model_version,
            response.id,
        )
        assert {**came.parameters} == {**response.parameters}
        assert_same(came.outputs, response.outputs)

    @_checked
    @given(st.binary(max_size=300))
    def test_any_bytes_are_a_request_or_the_callers_mistake(self, body: bytes) -> None:
        """Arbitrary bytes raise InvalidRequest, NotSupported or TooLarge, or parse; nothing else."""
        try:
            came = self.parse(body)
        except (InvalidRequest, NotSupported, TooLarge):
            return
        assert isinstance(came, InferenceRequest)


def assert_same(came: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Fail unless tensors agree in name, datatype, shape, parameters and every bit; one NaN is as good as another."""
    assert [tensor.name for tensor in came] == [tensor.name for tensor in expected]
    for one, other in zip(came, expected, strict=True):
        assert one.datatype == other.datatype
        assert one.shape == other.shape
        assert one.data.dtype == DTYPES[one.datatype]
        assert {**one.parameters} == {**other.parameters}
        if one.datatype == "BYTES":
            assert one.data.tolist() == other.data.tolist()
            continue
        if one.data.dtype.kind == "f":
            nan = np.isnan(other.data)
            assert (np.isnan(one.data) == nan).all()
            assert one.data[~nan].tobytes() == other.data[~nan].tobytes()
            continue
        assert one.data.tobytes() == other.data.tobytes()
