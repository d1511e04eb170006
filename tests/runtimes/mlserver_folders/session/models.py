import asyncio

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

import numpy as np


class Session:
    """Like an HTTP client's session: it may be used and closed only on the loop it was opened on."""

    def __init__(self):
        self._loop = asyncio.get_running_loop()
        self.closed = False

    async def fetch(self):
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("attached to a different loop")
        await asyncio.sleep(0)
        return 1

    async def close(self):
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("attached to a different loop")
        self.closed = True


class Fetcher(MLModel):
    async def load(self) -> bool:
        self.session = Session()
        self.lock = asyncio.Lock()
        self.queue: asyncio.Queue = asyncio.Queue()
        self.worker = asyncio.create_task(self._work())
        return True

    async def _work(self):
        while True:
            future, value = await self.queue.get()
            async with self.lock:
                future.set_result(value + await self.session.fetch())

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        future = asyncio.get_running_loop().create_future()
        await self.queue.put((future, payload.inputs[0].data[0]))
        result = await future
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("result", np.array([result]))]
        )

    async def unload(self) -> bool:
        self.worker.cancel()
        await asyncio.gather(self.worker, return_exceptions=True)
        await self.session.close()
        return True
