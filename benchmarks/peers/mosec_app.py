"""mosec: one worker; BATCH above 1 turns on its dynamic batching with a window of 2 ms."""

import os

import numpy as np
import orjson
from mosec import Server, Worker

from peers.engine import load

BATCH = int(os.environ["BATCH"])


class Model(Worker):
    def __init__(self):
        self.answer = load(f"{os.environ['MODELS']}/{os.environ['MODEL']}")

    def deserialize(self, data):
        return orjson.loads(data)

    def serialize(self, data):
        return orjson.dumps(data)

    def forward(self, data):
        asked = data if BATCH > 1 else [data]
        arrays = [np.array(each["inputs"][0]["data"], np.float32).reshape(each["inputs"][0]["shape"]) for each in asked]
        labels = self.answer(np.concatenate(arrays))
        answers, start = [], 0
        for array in arrays:
            part = labels[start : start + len(array)]
            start += len(array)
            output = {"name": "label", "datatype": "INT64", "shape": list(part.shape), "data": part.tolist()}
            answers.append({"outputs": [output]})
        return answers if BATCH > 1 else answers[0]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Model, num=1, max_batch_size=BATCH, max_wait_time=2 if BATCH > 1 else 0)
    server.run()
