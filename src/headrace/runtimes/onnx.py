"""ONNX models by ONNX Runtime: any `.onnx` file, told by its content.

One thread, run in sequence, memory from one allocator that all sessions of the process share: the settings that cost
least at rest and per model. What the graph declares is what the signature says; sequences of maps, as converters of
classifiers give them, are answered as one matrix with the class labels beside it.

Parameters: `default_outputs`, a list of output names; `threads`, for one large model with few callers (default 1).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from headrace.errors import InvalidRequest, LoadFailed, SettingsError, unknown_key
from headrace.payload import DTYPES, EMPTY, Array, Signature, TensorSpec
from headrace.runtimes.base import Recognition, Runtime, Source, Values, check_parameters, missing_extra

PARAMETERS: Final = ("default_outputs", "threads")

_DATATYPES: Final[Mapping[str, str]] = {
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(float16)": "FP16",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(bool)": "BOOL",
    "tensor(string)": "BYTES",
}
_MAPS: Final[Mapping[str, str]] = {
    "seq(map(int64,tensor(float)))": "INT64",
    "seq(map(string,tensor(float)))": "BYTES",
}
_INPUT_ERRORS: Final = frozenset({"InvalidArgument", "RuntimeException", "Fail"})


class OnnxRuntime(Runtime):
    """One session. Threads may share it."""

    extra: ClassVar[str] = "onnx"
    releases_lock: ClassVar[bool] = True
    concurrent: ClassVar[bool] = True

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._run: Any = None
        self._wanted: dict[str, np.dtype[Any]] = {}
        self._dtypes: dict[str, np.dtype[Any]] = {}  # those of _wanted that pass without a look at their elements
        self._known: tuple[str, ...] = ()
        self._inputs: tuple[TensorSpec, ...] = ()
        self._defaults: list[str] = []
        self._convert: dict[str, Callable[[Any], Array]] = {}
        self._plain = True

    @classmethod
    def recognise(cls, path: Path) -> Recognition | None:
        """A protobuf message whose fields are those of an ONNX ModelProto."""
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return _read_header(file.read(_HEADER), path.stat().st_size)

    @classmethod
    def recognise_object(cls, model: Any) -> Recognition | None:
        """An `onnx.ModelProto`."""
        kind = type(model)
        if kind.__name__ == "ModelProto" and kind.__module__.partition(".")[0] == "onnx":
            return Recognition("an onnx.ModelProto")
        return None

    def load(self) -> Signature:
        """Build the session and say what the graph declares.

        Raises:
            MissingExtra: onnxruntime is not installed.
            LoadFailed: ONNX Runtime refuses the model, or an input or output is of a type that no datatype carries.
            SettingsError: a parameter is not known, or names an output that is not there.
        """
        parameters = self.source.parameters
        check_parameters(parameters, PARAMETERS, runtime="onnx")
        session = self._open(_threads(parameters))
        self._inputs = tuple(_spec(node, "input") for node in session.get_inputs())
        outputs = tuple(self._describe(node, session) for node in session.get_outputs())
        names = [spec.name for spec in outputs]
        wanted = parameters.get("default_outputs", names)
        self._defaults = [wanted] if isinstance(wanted, str) else list(wanted)
        for name in self._defaults:
            if name not in names:
                raise unknown_key(str(name), names, where="parameters.default_outputs of an onnx model")
        self._wanted = {spec.name: DTYPES[spec.datatype] for spec in self._inputs}
        self._dtypes = {name: dtype for name, dtype in self._wanted.items() if not dtype.hasobject}
        self._plain = not self._convert
        self._known = tuple(names)
        # The session's own call into the library, a microsecond less than the public method, which checks again what
        # the engine has checked; it takes the same arguments. Where a release has none, the public one serves.
        self._run = getattr(getattr(session, "_sess", None), "run", session.run)
        import onnxruntime

        return Signature(
            platform="onnx_onnxruntime",
            inputs=self._inputs,
            outputs=outputs,
            default_outputs=tuple(self._defaults) if len(self._defaults) < len(names) else (),
            strict=True,
            batchable=all(spec.shape[:1] == (-1,) for spec in (*self._inputs, *outputs)),
            libraries={"onnxruntime": onnxruntime.__version__},
        )

    def predict(self, inputs: Values, outputs: Sequence[str] = (), parameters: Mapping[str, Any] = EMPTY) -> Values:
        """Run the graph. The fast path is one comparison of dtypes per input, and the run itself.

        Raises:
            InvalidRequest: names, datatypes or shapes are not those the graph declares.
        """
        dtypes = self._dtypes
        feeds = inputs if type(inputs) is dict else dict(inputs)
        for name, value in inputs.items():
            # Numpy keeps one object per native dtype, so identity is the cheapest test; text is never equal to it.
            if type(value) is not np.ndarray or value.dtype is not dtypes.get(name):
                feeds = self._feed(inputs)
                break
        names = outputs or self._defaults
        try:
            answers = self._run(names, feeds, None)
        except Exception as error:
            self._explain(error, inputs, names)
            raise
        if self._plain:
            return dict(zip(names, answers))  # noqa: B905 - ONNX Runtime answers each name; the check costs 0.15 us
        convert = self._convert
        return {
            name: convert[name](answer) if name in convert else answer
            for name, answer in zip(names, answers, strict=True)
        }

    def unload(self) -> None:
        """Let the session go, and its memory with it."""
        self._run = None
        self._convert = {}

    # -- the steps of load --

    def _open(self, threads: int) -> Any:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise missing_extra("onnxruntime", "onnx", needed_by=self._name()) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        if _share_allocator():
            options.add_session_config_entry("session.use_env_allocators", "1")
        # A path lets ONNX Runtime find weights kept in files beside the model.
        model = str(self.source.path) if self.source.path is not None else self.source.model.SerializeToString()
        try:
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise LoadFailed(f"{self._name()} is refused by ONNX Runtime {onnxruntime.__version__}: {error}") from error

    def _name(self) -> str:
        return str(self.source.path) if self.source.path is not None else "the ONNX model"

    def _describe(self, node: Any, session: Any) -> TensorSpec:
        """An output's spec; what turns it into an array is noted where it is none yet."""
        if node.type in _MAPS:
            labels = self._learn_labels(node.name, session)
            self._convert[node.name] = functools.partial(_from_maps, keys=labels)
            text = tuple(str(label) for label in labels)
            return TensorSpec(name=node.name, datatype="FP32", shape=(-1, len(labels)), labels=text)
        spec = _spec(node, "output")
        if spec.datatype == "BYTES":
            self._convert[node.name] = _to_bytes
        return spec

    def _learn_labels(self, output: str, session: Any) -> tuple[Any, ...]:
        """The keys of the maps, from an answer to a made-up row: the graph declares their type only."""
        feeds = {
            spec.name: np.full(
                [1 if size < 0 else size for size in spec.shape],
                "" if spec.datatype == "BYTES" else 0,
                dtype=DTYPES[spec.datatype],
            )
            for spec in self._inputs
        }
        try:
            ((first, *_),) = session.run([output], feeds)
        except Exception as error:
            raise LoadFailed(
                f"{self._name()} does not answer a made-up row, so its labels stay unknown: {error}"
            ) from error
        return tuple(first)

    # -- the slow paths of predict --

    def _feed(self, inputs: Values) -> dict[str, Any]:
        """Inputs in the dtypes that the graph wants; text for its strings."""
        feeds = {}
        for name, value in inputs.items():
            if name not in self._wanted:
                raise InvalidRequest(f"unknown input {name!r}; the model's inputs are {', '.join(self._wanted)}")
            array, wanted = np.asarray(value), self._wanted[name]
            if wanted.hasobject:
                feeds[name] = _to_text(name, array)
            elif array.dtype == wanted:
                feeds[name] = array
            elif array.dtype.kind in "biuf" and np.can_cast(array.dtype, wanted, "same_kind"):
                feeds[name] = array.astype(wanted)
            else:
                raise InvalidRequest(f"input {name!r} has dtype {array.dtype}, expected {wanted}")
        return feeds

    def _explain(self, error: Exception, inputs: Values, names: Sequence[str]) -> None:
        """Turn ONNX Runtime's complaint into ours where the caller is to blame; return where the model is."""
        for name in names:
            if name not in self._known:
                known = ", ".join(self._known)
                raise InvalidRequest(f"unknown output {name!r}; the model's outputs are {known}") from error
        missing = [spec.name for spec in self._inputs if spec.name not in inputs]
        if missing:
            raise InvalidRequest(f"missing input {', '.join(map(repr, missing))}") from error
        for spec in self._inputs:
            shape = np.shape(inputs[spec.name])
            fits = len(shape) == len(spec.shape) and all(
                want in {-1, came} for want, came in zip(spec.shape, shape, strict=True)
            )
            if spec.shape and not fits:
                raise InvalidRequest(
                    f"input {spec.name!r} has shape {list(shape)}, expected {list(spec.shape)}"
                ) from error
        # Shapes that fit one by one may still not fit together, which only the graph knows.
        if type(error).__name__ in _INPUT_ERRORS and "allocate memory" not in str(error):
            raise InvalidRequest(f"the model refuses the input: {error}") from error


@functools.cache
def _share_allocator() -> bool:
    """Give this process one allocator for all sessions, once; a second registration is an error of ONNX Runtime's.

    It is process-wide by nature: an environment of ONNX Runtime's is one per process.
    """
    import onnxruntime

    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    try:
        onnxruntime.create_and_register_allocator(memory, None)
    except Exception:  # noqa: BLE001 - a build without the arena, or somebody else registered one: sessions keep their own
        return False
    return True


def _threads(parameters: Mapping[str, Any]) -> int:
    threads = parameters.get("threads", 1)
    if type(threads) is not int or threads < 1:
        raise SettingsError(f"parameters.threads of an onnx model: expected a positive whole number, came {threads!r}")
    return threads


def _spec(node: Any, kind: str) -> TensorSpec:
    datatype = _DATATYPES.get(node.type)
    if datatype is None:
        raise LoadFailed(f"{kind} {node.name!r} is a {node.type}, which no datatype carries; leave it out of the graph")
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape or ())
    return TensorSpec(name=node.name, datatype=datatype, shape=shape)


def _from_maps(rows: Sequence[Mapping[Any, float]], *, keys: tuple[Any, ...]) -> Array:
    return np.array([[row[key] for key in keys] for row in rows], dtype=np.float32).reshape(len(rows), len(keys))


def _to_bytes(array: Any) -> Array:
    array = np.asarray(array, dtype=object)
    encoded = np.empty(array.size, dtype=object)
    encoded[:] = [item.encode() if isinstance(item, str) else item for item in array.ravel().tolist()]
    return encoded.reshape(array.shape)


def _to_text(name: str, array: Array) -> Array:
    texts = np.empty(array.size, dtype=object)
    try:
        texts[:] = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"input {name!r} holds bytes that are no UTF-8 text: {error.reason}") from error
    return texts.reshape(array.shape)


# -- recognition: the protobuf wire format, by hand --

_HEADER: Final = 1 << 16
_MODEL_FIELDS: Final[Mapping[int, int]] = {
    1: 0,  # ir_version
    2: 2,  # producer_name
    3: 2,  # producer_version
    4: 2,  # domain
    5: 0,  # model_version
    6: 2,  # doc_string
    7: 2,  # graph
    8: 2,  # opset_import
    14: 2,  # metadata_props
    20: 2,  # training_info
    25: 2,  # functions
    26: 2,  # configuration
}
"""Fields of ModelProto and their wire types, from onnx.proto (varint 0, length-delimited 2)."""


def _read_header(head: bytes, size: int) -> Recognition | None:
    """Judge by the fields that the first bytes hold: `ir_version` and a graph, and nothing that ModelProto lacks."""
    version = producer = None
    graph = False
    for number, wire, value, end in _fields(head):
        if _MODEL_FIELDS.get(number) != wire or end > size:
            return None
        if number == 1:
            version = value
        elif number == 2 and isinstance(value, bytes):
            producer = value.decode(errors="replace")
        elif number == 7:
            graph = True
    if not (graph and isinstance(version, int) and 1 <= version <= 1000):
        return None
    return Recognition(f"ONNX model, IR {version}" + (f", by {producer}" if producer else ""))


def _fields(head: bytes) -> Iterator[tuple[int, int, int | bytes, int]]:
    """Number, wire type, value (what of it the head holds) and end of each field; number 0 for what is no protobuf."""
    at = 0
    while at < len(head):
        key, at = _varint(head, at)
        number, wire = key >> 3, key & 7
        if at < 0 or wire not in {0, 2}:
            yield 0, wire, 0, 0
            return
        value, at = _varint(head, at)
        if at < 0:
            yield 0, wire, 0, 0
            return
        if wire == 0:
            yield number, wire, value, at
            continue
        yield number, wire, head[at : at + value], at + value
        at += value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at this place and the place after it; a place of -1 for what is none."""
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    return 0, -1
