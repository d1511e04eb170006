"""Small candidates of splits: honest `Infer`s that note what they are asked."""

from __future__ import annotations

import numpy as np

from headrace.payload import InferenceRequest, InferenceResponse, Tensor
from headrace.routing import sticky
from headrace.routing.shares import Candidate


class Model:
    """Answers `y = factor * x`; keeps the rows of each call. `error` is raised instead, `gate` awaited before."""

    def __init__(self, name, *, factor=2.0, error=None, gate=None, output="y"):
        self.name, self.factor, self.error, self.gate, self.output = name, factor, error, gate, output
        self.calls = []

    async def infer(self, request):
        self.calls.append(request)
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        data = request.inputs[0].data * np.float32(self.factor)
        return InferenceResponse(model_name=self.name, id=request.id, outputs=(Tensor(self.output, "FP32", data),))

    @property
    def rows(self):
        return [len(call.inputs[0].data) for call in self.calls]

    def candidate(self, weight=1.0, version="", **fields):
        return Candidate(self.name, version, weight, self.infer, sticky.route_of(self.name, version), **fields)


def asking(*values, shape=None, **fields):
    data = np.array(values or [1.0], np.float32)
    data = data.reshape(shape) if shape is not None else data.reshape(1, -1)
    return InferenceRequest(model_name="e", inputs=(Tensor("x", "FP32", data),), **fields)
