"""What tests of several rooms share: a certificate, a small model, the command in a process, and a control API over real
sockets that serves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import os
import signal
import subprocess
import sys
import threading

import hypothesis
import pytest

pytest_plugins = ["headrace.testing.brokers", "headrace.testing.registries", "headrace.testing.stores"]

hypothesis.settings.register_profile(
    "suite",
    deadline=None,  # how long an example takes says what else the machine does
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("suite")

signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # a shell starts background jobs deaf to it, and so their children


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A folder with `cert.pem`, for localhost and signed by itself, and its `key.pem`."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    places = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(places), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder


@pytest.fixture(scope="session")
def sum_model(tmp_path_factory):
    """A model that adds two numbers, as a file."""
    onnx = pytest.importorskip("onnx")
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)],
        "sum",
        [helper.make_tensor_value_info("x", number, ["n", 2])],
        [helper.make_tensor_value_info("y", number, ["n"])],
        [helper.make_tensor("axes", onnx.TensorProto.INT64, [1], [1])],
    )
    path = tmp_path_factory.mktemp("model") / "sum.onnx"
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(made.SerializeToString())
    return path


@pytest.fixture
def command(tmp_path):
    """Start `headrace` in a process of its own, in the test's folder; it is killed at the end of the body."""

    @contextlib.contextmanager
    def started(*arguments, **environ):
        process = subprocess.Popen(
            [sys.executable, "-m", "headrace", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1", **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # what is read ahead would not be seen by `select`
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()

    return started


class ControlServer:
    """A control API on a loop of its own: `control` and `backend` may be looked at, `run` does something on the loop."""

    def __init__(self, folder, token=""):
        from headrace.control.backends.memory import MemoryBackend
        from headrace.control.service import Control
        from headrace.control.store import Store
        from headrace.server.control import LIMITS, ControlApi
        from headrace.server.http import HttpServer

        self.folder = folder
        self.backend = MemoryBackend()
        self.store = Store(folder / "state.db")
        self.local = Local()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.store.open()

        async def start():
            self.control = Control(self.store, self.backend)
            self.api = ControlApi(self.control, self.local, token=token)
            self.server = HttpServer(self.api, limits=LIMITS)
            await self.control.start()
            return await self.server.start("127.0.0.1", 0)

        self.port = self.run(start())
        self.url = f"http://127.0.0.1:{self.port}"

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def close(self):
        async def stop():
            self.api.close()
            await self.server.stop(5)
            await self.control.stop()

        try:
            self.run(stop())
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(60)
            self.loop.close()
            self.store.close()


class Local:
    """What a process does beside carrying out resources: the taps of one pipeline, `chain`, and models in memory."""

    def __init__(self):
        from headrace.graph.taps import Taps

        self.taps = Taps("chain", ["inputs", "outputs", "scale.inputs", "scale.outputs"])
        self.resident = set()

    def tap(self, pipeline, reference, listener):
        from headrace.errors import NotFound

        if pipeline != "chain":
            raise NotFound(f"pipeline '{pipeline}' is not found")
        self.taps.subscribe(reference or "outputs", listener)
        return lambda: self.taps.unsubscribe(reference or "outputs", listener)

    def picture(self, name, form):
        return f"{form} of {name}\n"

    async def prefetch(self, model):
        self.resident.add(model)

    async def evict(self, model):
        self.resident.discard(model)


@pytest.fixture
def control_server_with(tmp_path):
    """Makes a control API with a token."""
    made = []

    def make(token):
        made.append(ControlServer(tmp_path, token))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def control_server(control_server_with):
    """A control API without a token."""
    return control_server_with("")


@pytest.fixture
def locked_server(control_server_with):
    """A control API whose token is `secret`."""
    return control_server_with("secret")
