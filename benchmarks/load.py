"""Start a server pinned to one core, load it from the other, and read what it used."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

WORK = Path(__file__).parent / ".work"
SERVER_CORE, LOAD_CORE = "0", "1"
_WRK = """
local file = assert(io.open(os.getenv("BODY"), "rb"))
wrk.method, wrk.body = "POST", file:read("*a")
file:close()
wrk.headers["Content-Type"] = os.getenv("CONTENT_TYPE")
local length = os.getenv("HEADER_LENGTH")
if length ~= "" then wrk.headers["Inference-Header-Content-Length"] = length end
function done(summary, latency)
  io.write(string.format('RESULT {"requests":%d,"microseconds":%d,"p50":%d,"p99":%d,"errors":%d}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write
    + summary.errors.timeout))
end
"""


@dataclass(frozen=True)
class Question:
    """What is asked, again and again."""

    path: str
    body: str
    """A file of .work/bodies; `.bin` is the binary extension, `.grpc` a framed gRPC message."""
    expect: bytes = b""
    """Bytes that a right answer holds."""


@dataclass(frozen=True)
class Server:
    """How to start one."""

    name: str
    environment: str
    command: str
    """With {port}, {grpc}, {models} and {folder} filled in."""
    question: Question
    variables: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    """Files to write into {folder} first, filled in likewise."""


@dataclass
class Figures:
    """One measurement."""

    rate: float
    """Requests a second."""
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """CPU microseconds of the server's whole tree a request."""
    errors: int


class Running:
    """A started server."""

    def __init__(self, server: Server, process: subprocess.Popen, port: int, grpc: int, cold_seconds: float) -> None:
        self.server, self.process, self.port, self.grpc, self.cold_seconds = server, process, port, grpc, cold_seconds

    def tree(self) -> list[int]:
        """The processes of the server's session."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                    if int(fields[3]) == self.process.pid:
                        found.append(int(entry.name))
        return found

    def cpu_seconds(self) -> float:
        total = 0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    def pss_mib(self) -> float:
        """Proportional set size of the tree: shared pages count once."""
        total = 0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                total += int(
                    re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)[1]
                )
        return total / 1024

    def measure(self, connections: int, seconds: int) -> Figures:
        before, started = self.cpu_seconds(), time.perf_counter()
        run = self._h2load if self.server.question.body.endswith(".grpc") else self._wrk
        requests, rate, p50, p99, errors = run(connections, seconds)
        used = self.cpu_seconds() - before
        assert time.perf_counter() - started < seconds + 20
        return Figures(rate, p50 / 1e3, p99 / 1e3, used / max(requests, 1) * 1e6, errors)

    def _wrk(self, connections: int, seconds: int) -> tuple[int, float, float, float, int]:
        question = self.server.question
        body = WORK / "bodies" / question.body
        binary = question.body.endswith(".bin")
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
            script.write(_WRK)
            script.flush()
            output = subprocess.run(
                ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency",
                 "-s", script.name, f"http://127.0.0.1:{self.port}{question.path}"],
                env={
                    **os.environ,
                    "BODY": str(body),
                    "CONTENT_TYPE": "application/octet-stream" if binary else "application/json",
                    "HEADER_LENGTH": (body.parent / f"{body.name}.header").read_text() if binary else "",
                },
                capture_output=True, text=True, timeout=seconds + 20, check=True,
            ).stdout  # fmt: skip
        found = json.loads(re.search(r"RESULT (.*)", output)[1])
        rate = found["requests"] / found["microseconds"] * 1e6
        return found["requests"], rate, found["p50"], found["p99"], found["errors"]

    def _h2load(self, connections: int, seconds: int) -> tuple[int, float, float, float, int]:
        with tempfile.NamedTemporaryFile() as log:
            output = subprocess.run(
                ["taskset", "-c", LOAD_CORE, "h2load", "-t1", f"-c{connections}", "-m1", f"-D{seconds}",
                 "-d", str(WORK / "bodies" / self.server.question.body), f"--log-file={log.name}",
                 "-H", "content-type: application/grpc", "-H", "te: trailers",
                 f"http://127.0.0.1:{self.grpc}/inference.GRPCInferenceService/ModelInfer"],
                capture_output=True, text=True, timeout=seconds + 20, check=True,
            ).stdout  # fmt: skip
            latencies = sorted(int(line.split("\t")[2]) for line in Path(log.name).read_text().splitlines())
        requests = int(re.search(r"(\d+) succeeded", output)[1])
        errors = sum(int(re.search(rf"(\d+) {kind}", output)[1]) for kind in ("failed", "errored", "timeout"))
        p50, p99 = latencies[len(latencies) // 2], latencies[int(len(latencies) * 0.99)]
        return requests, requests / seconds, p50, p99, errors


def ask(server: Server, port: int, grpc: int) -> bytes | None:
    """One real request; its answer when it is a right one."""
    question = server.question
    body = WORK / "bodies" / question.body
    data = body.read_bytes()
    try:
        if question.body.endswith(".grpc"):
            import grpc as client

            with client.insecure_channel(f"127.0.0.1:{grpc}") as channel:
                call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
                answer = call(data[5:], timeout=5)
        else:
            headers = {"Content-Type": "application/json"}
            if question.body.endswith(".bin"):
                length = (body.parent / f"{body.name}.header").read_text()
                headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": length}
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("POST", question.path, data, headers)
            reply = connection.getresponse()
            answer = reply.read()
            connection.close()
            if reply.status != 200:
                return None
    except Exception:  # noqa: BLE001 - a server that is not up yet fails in as many ways as there are servers
        return None
    return answer if question.expect in answer else None


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def running(server: Server, *, patience: float = 90.0) -> Iterator[Running]:
    """The server, started and answering; ended with its whole session afterwards."""
    port, grpc = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        filled = {"port": port, "grpc": grpc, "metrics": free_port(), "models": WORK / "models", "folder": folder,
                  "here": Path(__file__).parent}  # fmt: skip
        for name, text in server.files.items():
            content = text
            for key, value in filled.items():
                content = content.replace(f"<{key}>", str(value))
            (Path(folder) / name).write_text(content)
        binaries = WORK.resolve() / server.environment / "bin"
        variables = {
            **os.environ,
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "PYTHONPATH": str(Path(__file__).parent.resolve()),
            "MODELS": str((WORK / "models").resolve()),
            "OMP_NUM_THREADS": "1",
            **server.variables,
        }
        log = Path(folder) / "log"
        started = time.perf_counter()
        with log.open("w") as output:
            process = subprocess.Popen(
                ["taskset", "-c", SERVER_CORE, *server.command.format(**filled).split()],
                env=variables, stdout=output, stderr=output, cwd=folder, start_new_session=True,
            )  # fmt: skip
        try:
            while ask(server, port, grpc) is None:
                if process.poll() is not None or time.perf_counter() - started > patience:
                    raise SystemExit(f"{server.name} does not answer; its log ends:\n{log.read_text()[-2000:]}")
                time.sleep(0.01)
            yield Running(server, process, port, grpc, time.perf_counter() - started)
        finally:
            for which in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, which)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=8)


def median(figures: list[Figures], name: str) -> float:
    return statistics.median(getattr(each, name) for each in figures)
