"""KServe's SDK: a custom model.

Usage: kserve_app.py HTTP_PORT GRPC_PORT NAME FILE
"""

import sys

import numpy as np
from kserve import InferOutput, InferResponse, Model, ModelServer
from kserve.utils.utils import generate_uuid

from peers.engine import load


class Served(Model):
    def __init__(self, name, path):
        super().__init__(name)
        self.answer = load(path)
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        labels = self.answer(payload.inputs[0].as_numpy().astype(np.float32, copy=False))
        output = InferOutput("label", list(labels.shape), "INT64")
        output.set_data_from_numpy(labels, binary_data=False)
        return InferResponse(payload.id or generate_uuid(), self.name, [output])


if __name__ == "__main__":
    http_port, grpc_port, name, path = sys.argv[1:]
    server = ModelServer(workers=1, http_port=int(http_port), grpc_port=int(grpc_port), enable_latency_logging=False)
    server.start([Served(name, path)])
