"""What is asked of every server, and which differences from which peer are meant.

Three models are served: `iris` (scikit-learn, no version), `dated` (the same file, version 1 where the peer has
versions) and `echo` (a class of each server's own kind that gives back every tensor it gets).
"""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from dataclasses import dataclass, field

ROW = [5.1, 3.5, 1.4, 0.2]
TWO = [ROW, [6.7, 3.0, 5.2, 2.3]]
BOTH = ("MLServer", "KServe")
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Question:
    name: str
    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    peers: tuple[str, ...] = BOTH
    """Who is asked: V1 is not MLServer's."""


@dataclass(frozen=True)
class Meant:
    """A kind of difference, and why ours is as it is. One that is met nowhere fails the run, as an undeclared one does."""

    peer: str
    differences: str
    """A regular expression for the whole of a line `where: ours / theirs`."""
    reason: str
    questions: str = ".*"
    """A regular expression for the whole of a question's name."""


def v2(*tensors, **rest):
    return json.dumps({"inputs": list(tensors), **rest}).encode()


def tensor(data=ROW, shape=(1, 4), datatype="FP32", name="input-0", **rest):
    return {"name": name, "shape": list(shape), "datatype": datatype, "data": data, **rest}


def binary(document, *chunks):
    """A body in the form of the binary tensor extension, and its headers."""
    head = json.dumps(document).encode()
    return head + b"".join(chunks), {"Inference-Header-Content-Length": str(len(head))}


def get(name, path, **rest):
    return Question(name, "GET", path, **rest)


def post(name, path, body=b"", headers=JSON, **rest):
    return Question(name, "POST", path, body, headers, **rest)


def infer(name, *tensors, model="iris", headers=None, verb="infer", **rest):
    return post(name, f"/v2/models/{model}/{verb}", v2(*tensors, **rest), headers or JSON)


def echo(name, datatype, data, shape=None, **rest):
    return infer(name, tensor(data, shape or (len(data),), datatype, "x", **rest), model="echo")


def v1(name, path, document=None):
    if document is None:
        return get(name, f"/v1/models{path}", peers=("KServe",))
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return post(name, f"/v1/models{path}", body, peers=("KServe",))


INFER = "/v2/models/iris/infer"
FP32_ROW = struct.pack("<4f", *ROW)
BINARY_INPUT = {"name": "input-0", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
BINARY_ANSWER = {"parameters": {"binary_data_output": True}}

QUESTIONS = [
    # Health, metadata and routes.
    get("live", "/v2/health/live"),
    get("ready", "/v2/health/ready"),
    get("server metadata", "/v2"),
    get("model metadata", "/v2/models/iris"),
    get("model ready", "/v2/models/iris/ready"),
    get("metadata of an unknown model", "/v2/models/nobody"),
    get("readiness of an unknown model", "/v2/models/nobody/ready"),
    get("metadata of a version", "/v2/models/dated/versions/1"),
    get("readiness of a version", "/v2/models/dated/versions/1/ready"),
    get("metadata of an unknown version", "/v2/models/dated/versions/9"),
    get("readiness of an unknown version", "/v2/models/dated/versions/9/ready"),
    get("list of models", "/v2/models"),
    get("unknown path", "/v2/nonsense"),
    get("a model's name in UTF-8", "/v2/models/%C3%BCnbekannt"),
    get("slash at the end", "/v2/models/iris/ready/"),
    get("GET of infer", INFER),
    post("POST of live", "/v2/health/live"),
    get("root", "/"),
    get("metrics beside REST", "/metrics"),
    get("MLServer's OpenAPI document", "/v2/docs/dataplane.json"),
    get("MLServer's docs", "/v2/docs"),
    get("MLServer's docs of a model", "/v2/models/iris/docs"),
    get("KServe's OpenAPI document", "/openapi.json"),
    # Inference that works.
    infer("one row", tensor()),
    infer("one row, FP64", tensor(datatype="FP64")),
    infer("one row, INT64", tensor([5, 3, 1, 0], datatype="INT64")),
    infer("whole numbers for FP32", tensor([5, 3, 1, 0])),
    infer("nested rows", tensor(TWO, (2, 4))),
    infer("flat rows", tensor([*TWO[0], *TWO[1]], (2, 4))),
    infer("64 rows", tensor(TWO * 32, (64, 4))),
    infer("another name for the only input", tensor(name="x")),
    infer("an id", tensor(), id="abc"),
    infer("an empty id", tensor(), id=""),
    infer("a number as id", tensor(), id=7),
    infer("parameters", tensor(parameters={"a": 1}), parameters={"b": "two", "c": True}),
    infer("an unknown member", tensor(), nonsense=1),
    infer("an output asked for", tensor(), outputs=[{"name": "predict"}]),
    infer("another output asked for", tensor(), outputs=[{"name": "predict_proba"}]),
    infer("two outputs asked for", tensor(), outputs=[{"name": "predict"}, {"name": "predict_proba"}]),
    infer("an unknown output", tensor(), outputs=[{"name": "nonsense"}]),
    infer("no outputs asked for", tensor(), outputs=[]),
    infer("a version", tensor(), model="dated/versions/1"),
    infer("a model with a version, asked without", tensor(), model="dated"),
    infer("content type with charset", tensor(), headers={"Content-Type": "application/json; charset=utf-8"}),
    infer("content type of text", tensor(), headers={"Content-Type": "text/plain"}),
    infer("generate, MLServer's other name", tensor(), model="iris", verb="generate"),
    post("no content type", INFER, v2(tensor()), {}),
    infer("an answer in gzip", tensor(TWO * 2500, (5000, 4)), headers={**JSON, "Accept-Encoding": "gzip"}),
    post("a request in gzip", INFER, gzip.compress(v2(tensor())), {**JSON, "Content-Encoding": "gzip"}),
    post("a request in deflate", INFER, zlib.compress(v2(tensor())), {**JSON, "Content-Encoding": "deflate"}),
    post("a request in an unknown encoding", INFER, v2(tensor()), {**JSON, "Content-Encoding": "nonsense"}),
    post("a request that is not the gzip it says", INFER, v2(tensor()), {**JSON, "Content-Encoding": "gzip"}),
    # Inference that does not.
    infer("unknown model", tensor(), model="nobody"),
    infer("unknown version", tensor(), model="dated/versions/9"),
    infer("a version of a model without", tensor(), model="iris/versions/9"),
    infer("too few numbers", tensor(ROW[:3])),
    infer("too many numbers", tensor([*ROW, 1.0])),
    infer("ragged rows", tensor([ROW, ROW[:3]], (2, 4))),
    infer("wrong width", tensor([1.0, 2.0], (1, 2))),
    infer("wrong rank", tensor(ROW, (4,))),
    infer("no rows", tensor([], (0, 4))),
    infer("a huge shape", tensor(shape=(10**12, 4))),
    infer("a shape beyond 64 bits", tensor(shape=(2**40, 2**40))),
    infer("a negative shape", tensor(shape=(-1, 4))),
    infer("a broken shape", tensor(shape=(1.5, 4))),
    infer("deep nesting", tensor(json.loads("[" * 200 + "1" + "]" * 200))),
    infer("unknown datatype", tensor(datatype="FP99")),
    infer("datatype in small letters", tensor(datatype="fp32")),
    infer("no datatype", {"name": "x", "shape": [1, 4], "data": ROW}),
    infer("no name", {"shape": [1, 4], "datatype": "FP32", "data": ROW}),
    infer("no shape", {"name": "x", "datatype": "FP32", "data": ROW}),
    infer("no data", {"name": "x", "shape": [1, 4], "datatype": "FP32"}),
    infer("an input twice", tensor(), tensor()),
    infer("an input too many", tensor(), tensor(name="more")),
    infer("text for a model of numbers", tensor(["a", "b", "c", "d"], datatype="BYTES")),
    infer("a null among numbers", tensor([5.1, None, 1.4, 0.2])),
    infer("text among numbers", tensor([5.1, "x", 1.4, 0.2])),
    infer("a number as text", tensor([5.1, "3.5", 1.4, 0.2])),
    infer("a truth among numbers", tensor([5.1, True, 1.4, 0.2])),
    infer("NaN in the text", tensor([5.1, float("nan"), 1.4, 0.2])),
    infer("an empty list of inputs"),
    post("no inputs", INFER, b"{}"),
    post("inputs not a list", INFER, b'{"inputs": {}}'),
    post("not an object", INFER, b"[]"),
    post("not JSON", INFER, b"{"),
    post("not UTF-8", INFER, b'{"inputs": "\xff"}'),
    post("empty body", INFER),
    # Tensors both ways.
    echo("echo of FP32", "FP32", [0.1, 1.0, -2.5, 3.4e38]),
    echo("echo of FP64", "FP64", [0.1, 1e300, 5e-324]),
    echo("echo of INT8", "INT8", [-128, 127]),
    echo("echo of INT64", "INT64", [-(2**63), 2**63 - 1]),
    echo("echo of UINT64", "UINT64", [0, 2**64 - 1]),
    echo("echo of BOOL", "BOOL", [True, False]),
    echo("echo of 0 and 1 as BOOL", "BOOL", [1, 0]),
    echo("echo of BYTES", "BYTES", ["a", "", "grün 水 🚰"]),
    echo("echo of rows", "FP32", TWO, (2, 4)),
    echo("echo of rank 3", "INT32", list(range(8)), (2, 2, 2)),
    echo("echo of no elements", "FP32", [], (0,)),
    echo("echo of no rows", "FP32", [], (0, 4)),
    echo("echo of null", "FP64", [1.0, None]),
    echo("an integer too large", "INT8", [1000]),
    echo("a negative number for UINT8", "UINT8", [-1]),
    echo("a fraction for INT32", "INT32", [1.5]),
    echo("a whole fraction for INT32", "INT32", [2.0]),
    echo("numbers for BYTES", "BYTES", [1, 2]),
    infer("echo of two inputs", tensor(name="b"), tensor(["x"], (1,), "BYTES", "a"), model="echo"),
    infer("names in UTF-8", tensor(name="länge"), model="echo"),
    # Tensors as bytes.
    post("binary request", INFER, *binary({"inputs": [BINARY_INPUT]}, FP32_ROW)),
    post("binary request and answer", INFER, *binary({"inputs": [BINARY_INPUT], **BINARY_ANSWER}, FP32_ROW)),
    post("JSON request, binary answer", INFER, v2(tensor(), **BINARY_ANSWER)),
    post(
        "binary request, one output asked for as bytes",
        INFER,
        *binary(
            {"inputs": [BINARY_INPUT], "outputs": [{"name": "predict", "parameters": {"binary_data": True}}]}, FP32_ROW
        ),
    ),
    post("binary request, too short", INFER, *binary({"inputs": [BINARY_INPUT]}, FP32_ROW[:12])),
    post("binary request, too long", INFER, *binary({"inputs": [BINARY_INPUT]}, FP32_ROW, b"more")),
    post("binary request, header too large", INFER, v2(tensor()), {"Inference-Header-Content-Length": "9999"}),
    post("binary request, header not a number", INFER, v2(tensor()), {"Inference-Header-Content-Length": "x"}),
    post(
        "binary FP16",
        "/v2/models/echo/infer",
        *binary(
            {
                "inputs": [{"name": "x", "shape": [2], "datatype": "FP16", "parameters": {"binary_data_size": 4}}],
                **BINARY_ANSWER,
            },
            struct.pack("<2e", 1.5, -2.0),
        ),
    ),
    post(
        "binary BYTES that are no text",
        "/v2/models/echo/infer",
        *binary(
            {
                "inputs": [{"name": "x", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 12}}],
                **BINARY_ANSWER,
            },
            b"\x02\0\0\0\xff\xfe\x02\0\0\0hi",
        ),
    ),
    post(
        "binary BYTES in UTF-8",
        "/v2/models/echo/infer",
        *binary(
            {
                "inputs": [{"name": "x", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 12}}],
                **BINARY_ANSWER,
            },
            b"\x02\0\0\0\xc3\xbc\x02\0\0\0hi",
        ),
    ),
    # V1.
    v1("V1: list", ""),
    v1("V1: model", "/iris"),
    v1("V1: unknown model", "/nobody"),
    v1("V1: predict", "/iris:predict", {"instances": [ROW]}),
    v1("V1: predict two rows", "/iris:predict", {"instances": TWO}),
    v1("V1: predict, inputs", "/iris:predict", {"inputs": [ROW]}),
    v1("V1: no rows", "/iris:predict", {"instances": []}),
    v1("V1: both", "/iris:predict", {"instances": [ROW], "inputs": [ROW]}),
    v1("V1: instances not a list", "/iris:predict", {"instances": 1}),
    v1("V1: inputs not a list", "/iris:predict", {"inputs": 1}),
    v1("V1: neither", "/iris:predict", {}),
    v1("V1: wrong width", "/iris:predict", {"instances": [[1.0]]}),
    v1("V1: ragged rows", "/iris:predict", {"instances": [ROW, [1.0]]}),
    v1("V1: text for numbers", "/iris:predict", {"instances": ["a"]}),
    v1("V1: not JSON", "/iris:predict", b"{"),
    v1("V1: empty body", "/iris:predict", b""),
    v1("V1: unknown model's predict", "/nobody:predict", {"instances": [1]}),
    v1("V1: unknown verb", "/iris:nonsense", {"instances": [ROW]}),
    v1("V1: explain without explainer", "/iris:explain", {"instances": [ROW]}),
    v1("V1: echo of numbers", "/echo:predict", {"instances": [1, 2]}),
    v1("V1: echo of text", "/echo:predict", {"instances": ["a", "ü"]}),
    # The repository, last, since it changes what is served.
    post("repository index", "/v2/repository/index", b"{}"),
    post("repository index, empty body", "/v2/repository/index"),
    post("repository index, ready only", "/v2/repository/index", b'{"ready": true}'),
    post("load of an unknown model", "/v2/repository/models/nobody/load"),
    post("unload of an unknown model", "/v2/repository/models/nobody/unload"),
    post("load of a loaded model", "/v2/repository/models/dated/load"),
    post("unload", "/v2/repository/models/dated/unload"),
    get("readiness after unload", "/v2/models/dated/ready"),
    get("metadata after unload", "/v2/models/dated"),
    get("the server's readiness after unload", "/v2/health/ready"),
    infer("inference after unload", tensor(), model="dated"),
    post("repository index after unload", "/v2/repository/index", b"{}"),
    post("load after unload", "/v2/repository/models/dated/load"),
    infer("inference after load", tensor(), model="dated"),
]


def of_both(differences, reason, questions=".*"):
    return [Meant(peer, differences, reason, questions) for peer in BOTH]


_READINESS = "live|.*ready|.*readiness.*"
_CONVERTED = (
    'What is not of its tensor\'s datatype is refused, not converted: the peers take `"3.5"` and `true` for numbers, 1 '
    "for true, and make 1 of 1.5 and texts (MLServer: empty ones) of numbers, so a caller's mistake becomes a wrong answer."
)
_VERSIONS = "KServe has no versions (501 for every path that names one); ours answers, or says 404."
_UNLOADED = (
    "A model that was unloaded is known, and may be loaded again: 503, which routers and clients retry. 404 says that "
    "there is no such model."
)
_BINARY = (
    "MLServer's REST has no tensors as bytes; ours has the protocol's binary extension, so a client need not choose."
)
_ENCODINGS = "Requests are read in gzip and deflate; MLServer reads gzip alone, KServe neither."

MEANT: list[Meant] = [
    # Errors.
    *of_both(
        r"status: 400 / 422",
        "A request that cannot be read is 400, the protocol's status for it; 422 is the peer's web framework speaking.",
    ),
    *of_both(
        r"status: 400 / 500",
        "What the caller did wrong is 400 with a text that says what; the peer answers 500, which blames the server, "
        "rings its owner and is retried by clients.",
    ),
    *of_both(
        r"body: \{error\} / (\{detail\}|a text)",
        'Every error is `{"error": text}`, so that a client reads all of them alike; the peer has its web framework\'s '
        '`{"detail": ...}` or a text for some.',
    ),
    # Health, metadata, routes.
    Meant(
        "MLServer",
        r"body: absent / none",
        "MLServer answers by the status alone; ours has the protocol's small body as well, as KServe has.",
        f"{_READINESS}|load.*|unload",
    ),
    *of_both(r"\.(name|version|extensions): .*", "Each server names itself and what it can do.", "server metadata"),
    *of_both(
        r"\.(platform|versions|inputs|outputs|properties).*",
        "Metadata are read from the model file: names, datatypes and shapes of inputs and outputs, labels, engine. The "
        "peer knows only what somebody wrote down.",
        "model metadata|metadata of a version",
    ),
    Meant(
        "MLServer", r"status: 200 / 404", "KServe's list of models is served too; MLServer has none.", "list of models"
    ),
    Meant("MLServer", r"status: 200 / 404", "KServe's answer at the root is given too; MLServer has none.", "root"),
    Meant("KServe", r"status: 200 / 404", "MLServer's paths are served too; KServe has none.", ".*MLServer's .*"),
    Meant(
        "KServe",
        r"status: 404 / 200",
        "Metrics have a port of their own, 8082 unless set otherwise, as MLServer's have, so that whoever may ask a model "
        "need not see them. What scrapes KServe at 8080 must be told the port.",
        "metrics beside REST",
    ),
    *of_both(
        r"status: 200 / 307|body: absent / none",
        "A slash at the end is ignored; the peer redirects, which many clients do not follow for POST.",
        "slash at the end",
    ),
    Meant("KServe", r"status: (200|404) / 501", _VERSIONS, ".*version.*"),
    Meant("KServe", r"\.model_version: 1 / absent", _VERSIONS),
    # Inference.
    *of_both(
        r"\.id: absent / generated",
        "The `id` is the caller's and comes back as it was sent; the peer invents one where none came. The protocol "
        "leaves it out, and a log's request id travels in `X-Request-Id`.",
    ),
    Meant("MLServer", r"\.id: absent / ", "An empty id is no id.", "an empty id"),
    Meant(
        "MLServer",
        r"\.outputs\[\d\]\.parameters\.content_type: absent / (np|str)",
        "MLServer adds the name of its codec to every output. Its own types and codecs read answers without it.",
    ),
    Meant(
        "MLServer",
        r"\.outputs\[\d\]\.shape: \[(\d+)\] / \[\1, 1\]",
        "A tensor of rank 1 keeps its shape `[n]`, as metadata say and as in KServe and Triton; MLServer's codec makes "
        "`[n, 1]` of it. The data are the same.",
    ),
    Meant(
        "KServe",
        r"\.outputs\[0\]\.name: predict / output-0",
        "A scikit-learn output is named for the method that made it, as in MLServer, since several can be asked for; "
        "KServe has one output, `output-0`.",
    ),
    Meant(
        "KServe",
        r"status: 200 / 400",
        "KServe's model answers `predict` alone, under its own name for it, and refuses others.",
        ".*outputs? asked for.*",
    ),
    *of_both(
        r"status: 200 / (400|422)",
        "A body is JSON unless a header says otherwise, so `curl -d` works without a content type.",
        "content type of text|no content type",
    ),
    Meant("MLServer", r"status: 200 / 422", _ENCODINGS, "a request in deflate"),
    Meant("KServe", r"status: 200 / 400", _ENCODINGS, "a request in (gzip|deflate)"),
    Meant(
        "KServe",
        r"encoding: gzip / absent",
        "Long answers are compressed for who accepts it; KServe compresses none.",
        "an answer in gzip",
    ),
    *of_both(
        r"status: 415 / 200",
        "A Content-Encoding nobody knows is 415 with those that are read; the peer ignores the header, and would read "
        "compressed bytes as text.",
        "a request in an unknown encoding",
    ),
    Meant(
        "KServe",
        r"status: 400 / 200",
        "KServe ignores Content-Encoding, so a body that is not what it says passes.",
        "a request that is not the gzip it says",
    ),
    *of_both(
        r"status: 400 / 200",
        "A shape says how many elements there are; -1 is a word of metadata. The peer hands it to numpy, which guesses.",
        "a negative shape",
    ),
    Meant(
        "KServe",
        r"status: 400 / 200",
        "Datatypes have the protocol's spelling; KServe's own clients write it so.",
        "datatype in small letters",
    ),
    Meant(
        "KServe",
        r"status: 400 / 200",
        "KServe answers from the first input and drops the others in silence; a second one of the same name, or one "
        "that the model does not have, is a mistake.",
        "an input (twice|too many)",
    ),
    *of_both(
        r"status: 400 / 200",
        _CONVERTED,
        "a number as text|a truth among numbers|a fraction for INT32|numbers for BYTES|echo of 0 and 1 as BOOL",
    ),
    # Tensors as bytes.
    Meant("MLServer", r"status: 200 / 422", _BINARY, "binary .*"),
    Meant("MLServer", r"(type|bytes after the JSON|\.outputs).*", _BINARY, "JSON request, binary answer"),
    Meant("MLServer", r"status: 400 / 200", _BINARY, "binary request, header .*"),
    Meant(
        "KServe",
        r"type: application/octet-stream / none",
        "An answer with tensors as bytes has a content type, as Triton's; KServe's has none.",
    ),
    Meant(
        "KServe",
        r"status: 400 / 200",
        "Bytes that belong to no tensor, or a header that is longer than the body, say that the caller miscounted; "
        "KServe does not look.",
        "binary request, (too long|header too large)",
    ),
    Meant(
        "KServe",
        r"status: 200 / 500",
        "BYTES are any bytes, as the protocol says; KServe reads them as UTF-8 even in the binary form.",
        "binary BYTES that are no text",
    ),
    # V1.
    Meant(
        "KServe",
        r"\.model_version_status.*",
        "TensorFlow Serving's status stands beside KServe's members, so that clients of either can read it.",
        "V1: model",
    ),
    Meant(
        "KServe",
        r"\.outputs: .* / absent|\.predictions: absent / .*",
        "`inputs` is TensorFlow Serving's column form, which is answered by `outputs`; KServe takes it for another word "
        "for `instances`.",
        "V1: predict, inputs",
    ),
    Meant("KServe", r"status: 400 / 200", "Either `instances` or `inputs`: KServe drops one in silence.", "V1: both"),
    Meant(
        "KServe",
        r"status: 404 / 501",
        "There is no explainer at this address: 404, with a text that says so.",
        "V1: explain without explainer",
    ),
    # The repository.
    Meant(
        "MLServer",
        r"status: 200 / 422",
        "An empty body is an index without conditions.",
        "repository index, empty body",
    ),
    Meant(
        "MLServer",
        r"\[0\]\.reason: unloaded / ",
        "The index says why a model is not ready.",
        "repository index after unload",
    ),
    Meant("KServe", r"status: 200 / 404", "KServe has no index.", "repository index.*"),
    *of_both(r"status: 503 / 404|body: \{name, ready\} / \{error\}", _UNLOADED, ".* after unload"),
    Meant(
        "KServe",
        r"status: 404 / 503",
        "A model that was never heard of is 404, for load as for everything else.",
        "load of an unknown model",
    ),
    Meant(
        "KServe",
        r"status: 200 / (503|404)",
        "A model of KServe's SDK that was unloaded is gone until its process starts anew; ours is loaded again.",
        "load after unload|inference after load",
    ),
]
"""Every kind of difference. The first one that fits a line is its reason."""
