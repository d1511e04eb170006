"""What is asked of every server, and which differences from which peer are meant."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

ROW = [5.1, 3.5, 1.4, 0.2]


@dataclass(frozen=True)
class Question:
    name: str
    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def v2(*tensors, **rest):
    return json.dumps({"inputs": list(tensors), **rest}).encode()


def tensor(data=ROW, shape=(1, 4), datatype="FP32", name="input-0", **rest):
    return {"name": name, "shape": list(shape), "datatype": datatype, "data": data, **rest}


INFER = "/v2/models/iris/infer"
JSON = {"Content-Type": "application/json"}
QUESTIONS = [
    Question("live", "GET", "/v2/health/live"),
    Question("ready", "GET", "/v2/health/ready"),
    Question("server metadata", "GET", "/v2"),
    Question("model metadata", "GET", "/v2/models/iris"),
    Question("model ready", "GET", "/v2/models/iris/ready"),
    Question("unknown model's metadata", "GET", "/v2/models/nobody"),
    Question("unknown model's readiness", "GET", "/v2/models/nobody/ready"),
    Question("one row", "POST", INFER, v2(tensor()), JSON),
    Question("one row, FP64", "POST", INFER, v2(tensor(datatype="FP64")), JSON),
    Question("nested rows", "POST", INFER, v2(tensor([ROW, [6.7, 3.0, 5.2, 2.3]], (2, 4))), JSON),
    Question("an id", "POST", INFER, v2(tensor(), id="abc"), JSON),
    Question("an output asked for", "POST", INFER, v2(tensor(), outputs=[{"name": "predict_proba"}]), JSON),
    Question("an unknown output", "POST", INFER, v2(tensor(), outputs=[{"name": "nonsense"}]), JSON),
    Question(
        "content type with charset", "POST", INFER, v2(tensor()), {"Content-Type": "application/json; charset=utf-8"}
    ),
    Question("no content type", "POST", INFER, v2(tensor())),
    Question("unknown model", "POST", "/v2/models/nobody/infer", v2(tensor()), JSON),
    Question("unknown version", "POST", "/v2/models/iris/versions/9/infer", v2(tensor()), JSON),
    Question("too few numbers", "POST", INFER, v2(tensor(ROW[:3])), JSON),
    Question("wrong width", "POST", INFER, v2(tensor([1.0, 2.0], (1, 2))), JSON),
    Question("unknown datatype", "POST", INFER, v2(tensor(datatype="FP99")), JSON),
    Question("no datatype", "POST", INFER, v2({"name": "x", "shape": [1, 4], "data": ROW}), JSON),
    Question("no inputs", "POST", INFER, b"{}", JSON),
    Question("not JSON", "POST", INFER, b"{", JSON),
    Question("empty body", "POST", INFER, b"", JSON),
    Question("a null among numbers", "POST", INFER, v2(tensor([5.1, None, 1.4, 0.2])), JSON),
    Question("text among numbers", "POST", INFER, v2(tensor([5.1, "x", 1.4, 0.2])), JSON),
    Question("unknown path", "GET", "/v2/nonsense"),
    Question("wrong method", "GET", INFER),
    Question("repository index", "POST", "/v2/repository/index", b"{}", JSON),
    Question("load unknown", "POST", "/v2/repository/models/nobody/load", b"", JSON),
    Question("unload unknown", "POST", "/v2/repository/models/nobody/unload", b"", JSON),
    Question("V1 list", "GET", "/v1/models"),
    Question("V1 model", "GET", "/v1/models/iris"),
    Question("V1 unknown model", "GET", "/v1/models/nobody"),
    Question("V1 predict", "POST", "/v1/models/iris:predict", json.dumps({"instances": [ROW]}).encode(), JSON),
    Question("V1 predict, inputs", "POST", "/v1/models/iris:predict", json.dumps({"inputs": [ROW]}).encode(), JSON),
    Question("V1 instances not a list", "POST", "/v1/models/iris:predict", b'{"instances": 1}', JSON),
    Question("V1 neither", "POST", "/v1/models/iris:predict", b"{}", JSON),
    Question("V1 not JSON", "POST", "/v1/models/iris:predict", b"{", JSON),
    Question("V1 unknown model's predict", "POST", "/v1/models/nobody:predict", b'{"instances": [1]}', JSON),
]

ENVELOPE = "errors are always an object with one key, error; the text is our own"
MEANT: dict[str, dict[str, str]] = {"MLServer": {}, "KServe": {}}
"""By peer and question: why our answer differs."""
