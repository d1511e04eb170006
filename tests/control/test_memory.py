"""The backend in memory keeps what every backend keeps."""

from headrace.control.backends.memory import MemoryBackend
from headrace.control.resources import Model
from headrace.testing.backends import BackendConformance


class TestMemory(BackendConformance):
    async def make(self, folder):
        backend = MemoryBackend()
        backend.broken["nothing/there"] = "there is nothing"
        return backend

    def model(self, folder):
        return Model(uri="a")

    def broken(self, folder):
        return Model(uri="nothing/there")
