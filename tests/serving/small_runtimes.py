"""Small runtimes for the tests of the engine and its workers: real implementations of the role, loaded by reference."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

import numpy as np

from headrace.errors import InvalidRequest, LoadFailed, ModelError, Overloaded
from headrace.payload import (
    EMPTY,
    InferenceResponse,
    Route,
    RouteResponse,
    Signature,
    Tensor,
    TensorSpec,
)
from headrace.runtimes.base import Runtime

X = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))
Y = TensorSpec(name="y", datatype="FP32", shape=(-1,))


class Small(Runtime):
    """Adds up each row; what it adds to that is in `parameters`."""

    inputs = (X,)
    outputs = (Y,)
    batchable = True

    @classmethod
    def recognise(cls, path):
        return None

    def load(self):
        self.calls = []
        return Signature(
            platform="test", inputs=self.inputs, outputs=self.outputs, batchable=self.batchable, strict=True
        )

    def predict(self, inputs, outputs=(), parameters=EMPTY):
        x = inputs["x"]
        self.calls.append(len(x))
        return {"y": x.sum(axis=1) + np.float32(self.source.parameters.get("bias", 0))}


class Linear(Small):
    """Sums rows."""


class Alone(Small):
    """The same, declared not batchable."""

    batchable = False


class TwoOutputs(Small):
    """Sums and doubles, and the process that did it."""

    outputs = (Y, TensorSpec(name="double", datatype="FP32", shape=(-1, 4)))

    def predict(self, inputs, outputs=(), parameters=EMPTY):
        x = inputs["x"]
        return {"double": x * 2, "y": x.sum(axis=1)}


class Text(Small):
    """Upper case of text; bytes in, text out."""

    inputs = (TensorSpec(name="text", datatype="BYTES", shape=(-1,)),)
    outputs = (TensorSpec(name="upper", datatype="BYTES", shape=(-1,)),)

    def predict(self, inputs, outputs=(), parameters=EMPTY):
        return {"upper": np.array([each.decode().upper() for each in inputs["text"]])}


class Loose(Small):
    """Takes columns or a table, of any name."""

    def load(self):
        super().load()
        return Signature(platform="test", inputs=self.inputs, outputs=self.outputs, strict=False)

    def predict(self, inputs, outputs=(), parameters=EMPTY):
        table = np.column_stack(list(inputs.values()))
        return {"y": table.sum(axis=1)}


class Sleeping(Small):
    """Sleeps, which releases the lock, as long as its parameter says, counted for each predict."""

    releases_lock = True

    def predict(self, inputs, outputs=(), parameters=EMPTY):
        time.sleep(self.source.parameters["seconds"])
        return super().predict(inputs, outputs, parameters)


class Gated(Small):
    """Predicts when the gate is open; says how many rows each predict had."""

    gates: ClassVar = {}

    def load(self):
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.gates[self.source.parameters["gate"]] = self
        return super().load()

    def predict(self, inputs, outputs=(), parameters=EMPTY):
        self.entered.release()
        self.gate.wait(60)
        return super().predict(inputs, outputs, parameters)


class Fussy(Small):
    """Refuses negative numbers with a ValueError, NaN with an InvalidRequest, infinity with a RuntimeError."""

    def predict(self, inputs, outputs=(), parameters=EMPTY):
        x = inputs["x"]
        if np.isnan(x).any():
            raise InvalidRequest("x holds a NaN")
        if np.isinf(x).any():
            raise RuntimeError("cannot\n  go on")
        if (x < 0).any():
            raise ValueError("x is negative")
        return super().predict(inputs, outputs, parameters)


class Exits(Small):
    """Calls sys.exit."""

    def predict(self, inputs, outputs=(), parameters=EMPTY):
        sys.exit(3)


class Broken(Small):
    """Cannot be loaded."""

    def load(self):
        raise KeyError("no such layer")


class WrongRows(Small):
    """Gives one row too few, quietly divisible."""

    def predict(self, inputs, outputs=(), parameters=EMPTY):
        return {"y": inputs["x"].sum(axis=1)[:-1]}


class Crashing(Small):
    """Ends its process when x[0, 0] is negative, hangs when it is infinite, tells its pid in every answer."""

    outputs = (Y, TensorSpec(name="pid", datatype="INT64", shape=(-1,)))

    def load(self):
        flag = self.source.parameters.get("refuse_while")
        if flag and Path(flag).exists():
            raise LoadFailed("told to refuse")
        if self.source.parameters.get("crash_at_load"):
            os._exit(9)
        return super().load()

    def predict(self, inputs, outputs=(), parameters=EMPTY):
        first = inputs["x"][0, 0]
        if first == -np.inf:
            os.kill(os.getpid(), signal.SIGKILL)
        if first == np.inf:
            time.sleep(60)
        if first < 0:
            os._exit(7)
        return {"y": inputs["x"].sum(axis=1), "pid": np.full(len(inputs["x"]), os.getpid())}


class Busy(Small):
    """Writes its pid to a file, then holds the lock for a long time: not even its own socket is read."""

    def predict(self, inputs, outputs=(), parameters=EMPTY):
        path = self.source.parameters["pid_file"]
        if path and inputs["x"][0, 0] > 0:
            Path(path + ".part").write_text(str(os.getpid()))
            Path(path + ".part").rename(path)
            until = time.monotonic() + 30
            while time.monotonic() < until:
                pass
        return super().predict(inputs, outputs, parameters)


class Streaming(Small):
    """Counts to x[0, 0], one number a part; writes how far it came when it is closed. Fails at x[0, 1] if that is set."""

    inputs = (X,)
    outputs = (TensorSpec(name="n", datatype="INT64", shape=(1,)),)
    batchable = False
    streams = True

    def predict(self, inputs, outputs=(), parameters=EMPTY):
        return {"n": np.array([int(inputs["x"][0, 0])])}

    def predict_stream(self, inputs, outputs=(), parameters=EMPTY):
        made = 0
        try:
            for number in range(int(inputs["x"][0, 0])):
                if inputs["x"][0, 1] == number and number:
                    raise ValueError("told to fail")
                if inputs["x"][0, 2]:
                    time.sleep(float(inputs["x"][0, 2]))
                made += 1
                yield {"n": np.array([number])}
        finally:
            self.note(made)

    def note(self, made):
        if path := self.source.parameters.get("note"):
            Path(path + ".part").write_text(str(made))
            Path(path + ".part").rename(path)


class AsyncModel(Streaming):
    """The same, awaited: x[0, 2] is how long it sleeps for."""

    inputs = (X,)
    is_async = True
    running = 0
    most = 0
    cancelled = 0

    async def predict(self, inputs, outputs=(), parameters=EMPTY):
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            async with asyncio.timeout(30):
                await asyncio.sleep(float(inputs["x"][0, 2]))
        except asyncio.CancelledError:
            self.cancelled += 1
            self.note(-1)
            raise
        finally:
            self.running -= 1
        return {"n": np.array([self.most])}

    async def predict_stream(self, inputs, outputs=(), parameters=EMPTY):
        made = 0
        try:
            for number in range(int(inputs["x"][0, 0])):
                await asyncio.sleep(float(inputs["x"][0, 2]))
                made += 1
                yield {"n": np.array([number])}
        finally:
            self.note(made)


class Odd(Small):
    """Answers what the parameter says, whatever was asked."""

    batchable = False
    outputs = ()

    def predict(self, inputs, outputs=(), parameters=EMPTY):
        return {
            "text": {"y": np.array(["é", "b"])},
            "objects": {"y": np.array(["a", b"b"], object)},
            "numbers": {"y": np.array([1, 2], object)},
            "mixed": {"y": np.array([1, None], object)},
            "complex": {"y": np.array([1j])},
            "big-endian": {"y": np.array([1.5], ">f4")},
            "scalar": {"y": np.float64(2.5)},
            "not-a-dict": [1, 2],
            "nothing": {},
        }[self.source.parameters["answer"]]


class Echo(Small):
    """Gives back what it got, large or small."""

    inputs = (TensorSpec(name="x", datatype="FP32", shape=(-1, -1)),)
    outputs = (TensorSpec(name="y", datatype="FP32", shape=(-1, -1)),)

    def predict(self, inputs, outputs=(), parameters=EMPTY):
        assert not inputs["x"].flags.writeable
        return {"y": inputs["x"]}


class Meeting(Small):
    """Answers when two predicts are under way at the same time, in whatever threads or processes; gives up in the end."""

    def predict(self, inputs, outputs=(), parameters=EMPTY):
        folder = Path(self.source.parameters["folder"])
        if inputs["x"][0, 0] == 0:  # warm-up
            return super().predict(inputs, outputs, parameters)
        (folder / f"{os.getpid()}-{threading.get_ident()}").touch()
        until = time.monotonic() + 10
        while len(list(folder.iterdir())) < 2:
            if time.monotonic() > until:
                raise RuntimeError("nobody came")
            time.sleep(0.005)
        return super().predict(inputs, outputs, parameters)


class SlowToLoad(Small):
    """Takes as long to load as its parameter says; keeps what happened."""

    happened: ClassVar = []

    def load(self):
        self.happened.append("loading")
        time.sleep(self.source.parameters["seconds"])
        return super().load()

    def unload(self):
        self.happened.append("unloaded")


class Spinning(Small):
    """Spins in Python, which holds the lock."""

    def predict(self, inputs, outputs=(), parameters=EMPTY):
        until = time.perf_counter() + self.source.parameters["seconds"]
        while time.perf_counter() < until:
            pass
        return super().predict(inputs, outputs, parameters)


class Framed(Small):
    """Takes a DataFrame; answers its columns' names and, of each row, a text."""

    inputs = (
        TensorSpec(name="age", datatype="INT64", shape=(-1,)),
        TensorSpec(name="name", datatype="BYTES", shape=(-1,)),
    )
    outputs = (TensorSpec(name="told", datatype="BYTES", shape=(-1,), content_type="str"),)

    def load(self):
        super().load()
        return Signature(platform="test", inputs=self.inputs, outputs=self.outputs, content_type="pd")

    def predict(self, inputs, outputs=(), parameters=EMPTY):
        frame = inputs[""]
        self.calls.append(len(frame))
        return {"told": [f"{name} is {age}" for name, age in zip(frame["name"], frame["age"], strict=True)]}


class Worded(Small):
    """Takes a list of texts, answers their lengths; refuses the empty text."""

    inputs = (TensorSpec(name="text", datatype="BYTES", shape=(-1,), content_type="str"),)
    outputs = (TensorSpec(name="length", datatype="INT64", shape=(-1,)),)

    def predict(self, inputs, outputs=(), parameters=EMPTY):
        text = inputs["text"]
        assert isinstance(text, list)
        self.calls.append(len(text))
        return {"length": np.array([len(each) for each in text])}


class Whole(Small):
    """Takes whole requests: gives its inputs back and tells, in a parameter, what else it saw of the request.

    What a request's parameters ask for happens: `fail`, `sleep`, `answer` (a value in place of a response), `name`.
    """

    whole = True
    is_async = True
    streams = True
    batchable = True
    running = most = answered = 0
    routes = (
        Route(method="GET", path="/tell/{what}", name="tell"),
        Route(method="POST", path="/do", name="do"),
    )

    def load(self):
        self._loop = None
        self._measured = [("loads", "How often it was loaded.", 1.0)]
        return Signature(platform="test", batchable=self.batchable)

    async def begin(self):
        self._loop = asyncio.get_running_loop()
        if self.source.parameters.get("fail_at_begin"):
            raise KeyError("no such layer")
        return Signature(platform="begun", batchable=self.batchable)

    async def end(self):
        assert asyncio.get_running_loop() is self._loop
        self.note("ended")

    def unload(self):
        self.note("unloaded")

    def note(self, what):
        if path := self.source.parameters.get("note"):
            with Path(path).open("a") as file:
                file.write(f"{what}\n")

    async def answer(self, request):
        assert asyncio.get_running_loop() is self._loop
        assert asyncio.current_task() is not None
        asked = request.parameters
        self.running += 1
        self.answered += 1
        self.most = max(self.most, self.running)
        self._measured.append(("rows", "Rows of the last request.", float(len(request.inputs[0].data))))
        try:
            if asked.get("tell"):
                self.note("asleep")
            if seconds := asked.get("sleep"):
                await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.note("cancelled")
            raise
        finally:
            self.running -= 1
        if fail := asked.get("fail"):
            self.fail(fail)
        if bad := asked.get("answer"):
            text = Tensor("t", "BYTES", np.array(["text", b"bytes"], object))
            wrong = Tensor("t", "FP32", np.zeros(3))
            return {
                "dict": {},
                "object": self.tell(request, {"bad": object()}),
                "text": InferenceResponse(model_name="", outputs=(text,)),
                "wrong": InferenceResponse(model_name="", outputs=(wrong,)),
            }[bad]
        return self.tell(request, {"pid": os.getpid(), "most": self.most, "answered": self.answered})

    def fail(self, how):
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise {
            "teapot": ModelError("I am a teapot", status=418),
            "broken": ModelError("it broke", status=503),
            "value": ValueError("not\n that"),
            "busy": Overloaded("later", retry_after_seconds=7.5),
            "exit": SystemExit(3),
        }[how]

    def tell(self, request, more):
        return InferenceResponse(
            model_name=request.parameters.get("name", ""),
            outputs=request.inputs,
            parameters={
                "id": request.id,
                "headers": dict(request.headers),
                "parameters": dict(request.parameters),
                "outputs": [[each.name, dict(each.parameters)] for each in request.outputs],
                "protocol": request.protocol,
                "model": [request.model_name, request.model_version],
                "rows": [len(each.data) for each in request.inputs],
                **more,
            },
            headers={"x-seen": request.headers.get("x-sent", "")},
        )

    async def answer_stream(self, request):
        made = 0
        try:
            for number in range(request.parameters["parts"]):
                if request.parameters.get("fail_at") == number:
                    raise ModelError("enough", status=429)
                await asyncio.sleep(request.parameters.get("pause", 0))
                made += 1
                text = Tensor("text", "BYTES", np.array([b"%d" % number], object), {"content_type": "str"})
                told = {"n": number, "id": request.id}
                if request.parameters.get("bad_at") == number:
                    told["bad"] = object()
                yield InferenceResponse(model_name="", outputs=(text,), parameters=told)
        finally:
            self._measured.append(("parts", "Parts of the last stream.", float(made)))
            self.note(f"made {made}")

    async def visit(self, request):
        self._measured.append(("visits", "Visits.", 1.0))
        if request.route == "do":
            what = request.body.decode()
            if what == "sleep":
                await asyncio.sleep(20)
            self.fail(what)
        told = f"{request.method} {request.target} {request.parameters['what']} {dict(request.headers)}"
        return RouteResponse(status=202, headers=(("x-pid", str(os.getpid())),), body=told.encode() + request.body)

    def logged(self):
        measured, self._measured = self._measured, []
        return measured


class WholeAlone(Whole):
    """The same, that does not count rows."""

    batchable = False


class Guided(Small):
    """Adds up rows, and has a route of its own; asynchronous code answers it when the parameter says so."""

    routes = (Route(method="GET", path="/where", name="where"),)

    def visit(self, request):
        if self.source.parameters.get("awaited"):
            return self.later()
        return RouteResponse(body=threading.current_thread().name.encode())

    async def later(self):
        await asyncio.sleep(0)
        return RouteResponse(body=b"later")


class Environed(Small):
    """Tells which Python it runs on and where a library comes from that several places have."""

    outputs = (TensorSpec(name="told", datatype="BYTES", shape=(-1,)),)
    batchable = False

    def predict(self, inputs, outputs=(), parameters=EMPTY):
        import settled_in

        told = [
            sys.prefix,
            settled_in.__file__,
            np.__file__,
            os.environ.get("VIRTUAL_ENV", ""),
            os.environ.get("PYTHONPATH", ""),
            str(os.getpid()),
        ]
        return {"told": np.array(told)}
