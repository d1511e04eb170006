"""Kill a server at random, under load, while what it serves is being changed; look for what is lost or fails.

    python benchmarks/chaos.py --seconds 120 --seed 1

Threads ask models, pipelines, an experiment, a canary and a rollout all the time, over connections that stay open, and
check each answer: it must be one that a declaration in force allows. Another thread applies, deletes and rolls back.
Now and then the process is killed (or asked to stop) and started again on the same state file. Then:

* everything acknowledged must be there, in the generation that was acknowledged, and what was deleted must be gone;
* once the server says that it is ready, a plan must be empty soon;
* no request may fail, but for those that the death of the process itself explains.

Exits with 1 if anything was lost or failed, and prints what. Needs nothing but Headrace and its Python.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

CODE = """
import numpy as np


class Add:
    def __init__(self, amount: float = 0.0, fails: bool = False):
        if fails:
            raise ValueError("it was told to fail")
        self.amount = amount

    def predict(self, x: np.ndarray) -> dict:
        return {"x": x + self.amount}
"""
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [0.0]}]}).encode()
Key = tuple[str, str]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Down(Exception):
    """The server is not there: it was killed."""


class Process:
    """The server, killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.grpc, self.metrics, self.control = free_ports(4)
        self.down, self.deaths = True, 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> float:
        """Start, and return when it is ready, with the seconds that it took."""
        began = time.monotonic()
        ports = {"": self.port, "grpc-": self.grpc, "metrics-": self.metrics, "control-": self.control}
        flags = [text for name, port in ports.items() for text in (f"--{name}port", str(port))]
        log = (self.folder / "server.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "headrace", "serve", *flags, "--state", str(self.folder / "state.db")],
            stdout=log,
            stderr=log,
            cwd=self.folder,
        )
        log.close()
        while time.monotonic() - began < 60:
            if self._process.poll() is not None:
                raise SystemExit(f"the server ended at start with {self._process.returncode}: see server.log")
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/v2/health/ready")
                if connection.getresponse().status == 200:
                    self.deaths += 1  # what was connected while the one before was ending is of no use
                    self.down = False
                    return time.monotonic() - began
            time.sleep(0.02)
        raise SystemExit("the server was not ready after 60 s: see server.log")

    def end(self, number: int) -> int:
        """Send a signal, and return the exit code."""
        assert self._process is not None
        self.deaths += 1
        self.down = True
        self._process.send_signal(number)
        return self._process.wait(timeout=60)


class World:
    """What was declared and acknowledged, and what may be answered."""

    def __init__(self, process: Process, folder: Path, seed: int) -> None:
        self.process, self.folder = process, folder
        self.random = random.Random(seed)
        self.acknowledged: dict[Key, tuple[int, dict[str, Any]]] = {}
        self.amounts: dict[str, list[frozenset[float]]] = {}
        self.by_generation: dict[str, dict[int, dict[str, Any]]] = {}
        self.pending: tuple[str, Key, dict[str, Any] | None] | None = None
        self.faults: list[str] = []
        self.tally: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.amount = 0.0
        self.ending = threading.Event()
        self.maybe: set[str] = set()

    def fault(self, text: str) -> None:
        """Something went wrong."""
        with self.lock:
            self.faults.append(f"{time.strftime('%H:%M:%S')} {text}")
            if len(self.faults) < 30:
                print("FAULT", self.faults[-1], flush=True)

    # -- the control API --

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One request to it; Down when the process was killed meanwhile."""
        deaths = self.process.deaths
        connection = http.client.HTTPConnection("127.0.0.1", self.process.control, timeout=60)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"content-type": "application/json"} if data else {})
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            if self.process.down or self.process.deaths != deaths:
                raise Down from error
            raise
        finally:
            connection.close()

    def apply(self, kind: str, name: str, spec: dict[str, Any]) -> int:
        """Declare one resource; the generation that was acknowledged."""
        key = (kind, name)
        document = {"apiVersion": "headrace.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        self.pending = ("apply", key, spec)
        files = [{"name": f"{name}.yaml", "text": json.dumps(document), "base": str(self.folder)}]
        status, reply = self.ask("POST", "/v1/apply", {"files": files})
        if status != 200:
            self.pending = None
            if self.process.down and status == 503:
                raise Down
            self.fault(f"apply {key} {spec}: {status} {reply}")
            return 0
        generation = next(each["generation"] for each in reply["changes"] if each["name"] == name)
        self.acknowledged[key] = (generation, spec)
        self.by_generation.setdefault(name, {})[generation] = spec
        self.pending = None
        return generation

    def delete(self, kind: str, name: str) -> None:
        """Take one away."""
        self.pending = ("delete", (kind, name), None)
        status, reply = self.ask("DELETE", f"/v1/resources/{kind}/{name}")
        self.pending = None
        if status == 200:
            self.acknowledged.pop((kind, name), None)
            self.by_generation.pop(name, None)
        elif self.process.down and status == 503:
            raise Down
        else:
            self.fault(f"delete {kind} {name}: {status} {reply}")

    def wait(self, kind: str, name: str, generation: int, seconds: float = 30.0) -> None:
        """Until a generation is ready."""
        deadline = time.monotonic() + seconds
        seen: Any = None
        while time.monotonic() < deadline:
            status, reply = self.ask("GET", f"/v1/resources/{kind}/{name}")
            if status == 200:
                seen = reply["resources"][0].get("status", {})
                ready = any(each["type"] == "Ready" and each["status"] == "True" for each in seen.get("conditions", ()))
                if seen.get("observedGeneration", 0) >= generation and ready:
                    return
            time.sleep(0.01)
        self.fault(f"{kind} {name} generation {generation} is not ready after {seconds:g} s: {seen}")

    # -- what may be answered --

    def may(self, name: str, amounts: frozenset[float]) -> None:
        """From now on these are right answers of a model."""
        self.amounts.setdefault(name, []).append(amounts)

    def allowed(self, name: str) -> frozenset[float]:
        """What a model may answer now."""
        return self.amounts[name][-1]

    def model(self, name: str, *, wait: bool = False, **fields: Any) -> None:
        """Declare a model with another amount."""
        self.amount += 1.0
        amount = self.amount
        before = self.amounts.get(name, [frozenset[float]()])[-1]
        self.may(name, before | {amount})
        spec = {"reference": "add.py:Add", "parameters": {"amount": amount}, "optimize": "off", **fields}
        generation = self.apply("Model", name, spec)
        if wait and generation:
            self.wait("Model", name, generation)
            if fields.get("canaryTrafficPercent", 100) == 100:
                self.may(name, frozenset({amount}))

    # -- after a restart --

    def check(self) -> None:
        """Everything acknowledged is there, and what is not sure is taken as it is."""
        status, reply = self.ask("GET", "/v1/resources")
        if status != 200:
            self.fault(f"resources after a restart: {status} {reply}")
            return
        found = {(each["kind"], each["metadata"]["name"]): each for each in reply["resources"]}
        pending, self.pending = self.pending, None
        unsure = pending[1] if pending is not None else None
        for key, (generation, spec) in list(self.acknowledged.items()):
            there = found.get(key)
            if there is None:
                if key == unsure and pending is not None and pending[0] == "delete":
                    del self.acknowledged[key]
                    continue
                self.fault(f"{key} generation {generation} is lost")
                continue
            now = there["metadata"]["generation"]
            if key == unsure and now == generation + 1 and pending is not None and pending[2] is not None:
                self.acknowledged[key] = (now, pending[2])
                self.by_generation.setdefault(key[1], {})[now] = pending[2]
            elif now != generation:
                self.fault(f"{key}: generation {now}, acknowledged was {generation}")
            elif key[0] == "Model" and there["spec"].get("parameters") != spec.get("parameters"):
                self.fault(f"{key}: {there['spec']}, acknowledged was {spec}")
        for key in found.keys() - self.acknowledged.keys():
            if key == unsure and pending is not None and pending[2] is not None:
                self.acknowledged[key] = (found[key]["metadata"]["generation"], pending[2])
            else:
                self.fault(f"{key} is there, and was deleted or never declared")
        deadline, actions = time.monotonic() + 20, [{}]
        while actions and time.monotonic() < deadline:
            status, reply = self.ask("POST", "/v1/plan", {"files": []})
            actions = reply.get("actions", [reply])
            time.sleep(0.05)
        failed = {
            name
            for name, kept in self.by_generation.items()
            if any(s["parameters"].get("fails") for s in kept.values() if "parameters" in s)
        }
        if [each for each in actions if not any(name in json.dumps(each) for name in failed)]:
            self.fault(f"the plan is not empty 20 s after a restart: {actions}")


def load(world: World, name: str, path: str, right: Any, pause: float = 0.0) -> None:
    """Ask one endpoint again and again."""
    connection: http.client.HTTPConnection | None = None
    born = 0
    process = world.process
    while not world.ending.is_set():
        if process.down:
            time.sleep(0.01)
            continue
        if pause:
            time.sleep(pause)
        deaths, down = process.deaths, process.down
        since = {each: len(kept) - 1 for each, kept in world.amounts.items()}
        maybe = name in world.maybe
        try:
            if connection is not None and born != deaths:
                connection.close()
                connection = None
            if connection is None:
                born = deaths
                connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=30)
            connection.request("POST", path, BODY, {"content-type": "application/json"})
            reply = connection.getresponse()
            status, text = reply.status, reply.read()
        except (OSError, http.client.HTTPException) as error:
            if connection is not None:
                connection.close()
            connection = None
            if down or process.down or process.deaths != deaths:
                world.tally[f"{name} while dead"] += 1
            else:
                world.fault(f"{name}: {type(error).__name__}: {error}")
            continue
        maybe = maybe or name in world.maybe
        if status == 200:
            world.tally[f"{name} ok"] += 1
            value = json.loads(text)["outputs"][0]["data"][0]
            sets = {
                each: frozenset().union(*kept[max(since.get(each, 0), 0) :]) for each, kept in world.amounts.items()
            }
            if value not in right(sets):
                world.fault(f"{name} answered {value}, right is {sorted(right(sets))}")
        elif process.down or process.deaths != deaths or down:
            world.tally[f"{name} {status} while stopping"] += 1
        elif maybe and status in {404, 503}:
            world.tally[f"{name} {status} honest"] += 1
        else:
            world.fault(f"{name}: {status} {text[:300]!r}")
    if connection is not None:
        connection.close()


def build(world: World) -> None:
    """Declare what is to survive."""
    for name in ("a", "b", "s1", "s2", "canary", "own"):
        world.model(name, wait=True, **({"placement": "process"} if name == "own" else {}))
    world.model("idle", wait=True, minReplicas=0, idleSeconds=0.3, load="onDemand")
    chain(world)
    weights(world)
    rollout(world)
    world.wait("Pipeline", "chain", 1)
    world.wait("Experiment", "split", 1)


def chain(world: World) -> None:
    """One of two chains of one meaning: the second asks this very server over HTTP."""
    steps: list[dict[str, Any]] = [{"name": "a"}, {"name": "b", "inputs": ["a"]}]
    if world.random.random() < 0.5:
        rest, grpc = f"http://127.0.0.1:{world.process.port}", f"grpc://127.0.0.1:{world.process.grpc}"
        steps[1] |= {"url": world.random.choice([rest, grpc])}
    if world.random.random() < 0.5:
        steps.append({"name": "nothing", "python": "add.py:Add", "inputs": ["b"]})
    world.apply("Pipeline", "chain", {"steps": steps, "output": {"steps": [steps[-1]["name"]]}})


def weights(world: World) -> None:
    """Other weights of the experiment."""
    one = world.random.choice([1, 10, 50, 90])
    mirror = {"mirror": {"name": "s2", "percent": 50}} if world.random.random() < 0.3 else {}
    candidates = [{"name": "a", "weight": one}, {"name": "b", "weight": 100 - one}]
    world.apply("Experiment", "split", {"candidates": candidates, **mirror})


def rollout(world: World) -> None:
    """A rollout that begins anew, as its candidate is another."""
    world.model("s2")
    steps = [{"weight": each, "pauseSeconds": 0.5} for each in (10, 50)]
    judge = {"minRequests": 20, "maxLatencyRatio": 0, "maxErrorRateIncrease": 0.05}
    world.apply("Rollout", "move", {"stable": "s1", "candidate": "s2", "steps": steps, "judge": judge})


def change(world: World) -> None:
    """One change of something."""
    pick = world.random.random()
    if pick < 0.25:
        world.model(world.random.choice(["a", "b"]), wait=world.random.random() < 0.5)
    elif pick < 0.32:
        name = world.random.choice(["a", "b"])  # what cannot be loaded leaves what was there
        parameters = {"amount": -1.0, "fails": True}
        world.apply("Model", name, {"reference": "add.py:Add", "optimize": "off", "parameters": parameters})
    elif pick < 0.45:
        percent = world.random.choice([0, 10, 50, 100])
        world.model("canary", wait=False, canaryTrafficPercent=percent)
    elif pick < 0.55:
        chain(world)
    elif pick < 0.65:
        weights(world)
    elif pick < 0.75:
        rollout(world)
    elif pick < 0.78:
        world.model("own", placement="process")
    elif pick < 0.85:
        name = world.random.choice(["a", "b"])
        generation = world.random.choice(sorted(world.by_generation.get(name, {1: {}})))
        spec = world.by_generation.get(name, {}).get(generation)
        if spec is None or spec["parameters"].get("fails"):
            return
        world.may(name, world.allowed(name) | {spec["parameters"]["amount"]})
        world.pending = ("apply", ("Model", name), spec)
        status, reply = world.ask("POST", f"/v1/resources/Model/{name}/rollback", {"generation": generation})
        world.pending = None
        if status != 200:
            if not (world.process.down and status == 503) and "not kept" not in str(reply) and status != 404:
                world.fault(f"rollback {name} {generation}: {status} {reply}")
            return
        now = next(each["generation"] for each in reply["changes"])
        world.acknowledged["Model", name] = (now, spec)
        world.by_generation[name][now] = spec
    else:
        name = f"t{world.random.randrange(4)}"
        if ("Model", name) in world.acknowledged:
            world.maybe.add(name)
            world.delete("Model", name)
        else:
            world.maybe.add(name)
            world.model(name, wait=True)
            if ("Model", name) in world.acknowledged:
                world.maybe.discard(name)


def changing(world: World) -> None:
    """Changes, one after the other."""
    while not world.ending.is_set():
        if world.process.down or world.checking.is_set():  # type: ignore[attr-defined]
            time.sleep(0.01)
            continue
        try:
            change(world)
            world.tally["changes"] += 1
        except Down:
            world.tally["changes cut off"] += 1
            while not world.checking.is_set() and not world.ending.is_set():  # type: ignore[attr-defined]
                time.sleep(0.005)
        time.sleep(world.random.random() * 0.1)
        if world.busy:  # type: ignore[attr-defined]
            continue


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default="")
    parser.add_argument("--term", type=float, default=0.2, help="the share of restarts that are asked for, not killed")
    options = parser.parse_args()
    folder = Path(options.folder or tempfile.mkdtemp(prefix="headrace-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "add.py").write_text(CODE)
    process = Process(folder)
    world = World(process, folder, options.seed)
    world.checking, world.busy = threading.Event(), False  # type: ignore[attr-defined]
    starts = [process.start()]
    killer = random.Random(options.seed + 1)
    try:
        build(world)
        for number in range(4):
            world.may(f"t{number}", frozenset())
            world.maybe.add(f"t{number}")
        both = lambda m: {x + y for x in m["a"] for y in m["b"]}  # noqa: E731
        asks = [
            ("a", "/v2/models/a/infer", lambda m: m["a"]),
            ("canary", "/v2/models/canary/infer", lambda m: m["canary"]),
            ("own", "/v2/models/own/infer", lambda m: m["own"]),
            ("chain", "/v2/models/chain/infer", both),
            ("split", "/v2/models/split/infer", lambda m: m["a"] | m["b"]),
            ("s1", "/v2/models/s1/infer", lambda m: m["s1"] | m["s2"]),
            ("idle", "/v2/models/idle/infer", lambda m: m["idle"]),
            *[(f"t{n}", f"/v2/models/t{n}/infer", lambda m, n=n: m[f"t{n}"]) for n in range(4)],
        ]
        threads = [threading.Thread(target=changing, args=(world,))]
        for name, path, right in asks:
            pause = {"idle": 0.7}.get(name, 0.05 if name[0] == "t" else 0.008)
            threads.append(threading.Thread(target=load, args=(world, name, path, right, pause)))
        for each in threads:
            each.start()
        began = time.monotonic()
        while time.monotonic() - began < options.seconds:
            time.sleep(killer.uniform(0.2, 6.0))
            number = signal.SIGTERM if killer.random() < options.term else signal.SIGKILL
            code = process.end(number)
            world.tally[f"ended by {signal.Signals(number).name}"] += 1
            if number == signal.SIGTERM and code != 0:
                world.fault(f"SIGTERM: exit code {code}")
            world.checking.set()  # type: ignore[attr-defined]
            starts.append(process.start())
            world.check()
            world.checking.clear()  # type: ignore[attr-defined]
    finally:
        world.ending.set()
        for each in threading.enumerate():
            if each is not threading.current_thread() and not each.daemon:
                each.join(30)
        code = process.end(signal.SIGTERM)
    print(json.dumps(dict(sorted(world.tally.items())), indent=1))
    print(f"starts: {len(starts)}, the slowest {max(starts):.1f} s; last exit code {code}; folder {folder}")
    print(f"{len(world.faults)} faults")
    return 1 if world.faults else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    raise SystemExit(main())
