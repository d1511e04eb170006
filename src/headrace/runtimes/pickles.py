"""The only door to unpickling, part of `load`: runtimes of frameworks that save pickles call it.

A pickle is a program. `inspect` and `scan` read one without running it; `load` runs it, under an allow-list unless the
artifact is trusted. Plain pickles, cloudpickle's and joblib's files are read, plain or compressed as joblib does (zlib,
gzip, bz2, xz, lzma, and lz4 where that library is installed). joblib writes an array's bytes into the middle of the
stream, after the wrapper that describes it; both readers here know that layout and need no joblib.

What a restricted load keeps, beyond the list of names (each rule closes a way out that a list of names leaves open):

* `module.Class.method`, dunders and any other dotted name inside a module are refused: `sklearn.os.system` is one.
* A pattern with a wildcard admits classes only, that live where the pattern says (an import that happens to be visible
  in an allowed module is not admitted), outside test, data and vendored modules. Functions are admitted by exact name.
* A wildcard for the standard library, numpy, scipy, pandas or joblib is refused: each holds classes that write files,
  delete folders or execute text when merely rebuilt (`numpy.memmap`, `numpy.lib.npyio.DataSource`,
  `scipy.stats.rv_continuous`).
* Only what was named may be called, never a value that a call gave back; a class admitted by a wildcard is rebuilt
  without running its Python constructor.
* State may be given to instances only. Given to a class, it would change every other model in the process.
* Arrays of objects are nested pickles, and read under the same rules. A dtype is made by numpy's constructor and never
  by its state, and `numpy.ndarray` is never called: either could pass bytes of the file off as objects.

What it does not keep: a hostile file may still be huge, slow or hold numbers that crash a library's native code. Run
what you do not trust at all in a worker process.
"""

from __future__ import annotations

import _codecs
import _compat_pickle
import bz2
import contextlib
import copyreg
import fnmatch
import functools
import gzip
import importlib
import io
import lzma
import math
import pickle
import re
import sys
import threading
import types
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Final, Self, cast

import msgspec
import numpy as np

from headrace.errors import HeadraceError, LoadFailed, MissingExtra, SettingsError, UnsafeArtifact
from headrace.payload import EMPTY, Array
from headrace.runtimes.base import missing_extra

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

ARRAY_WRAPPER: Final = "joblib.numpy_pickle.NumpyArrayWrapper"
"""What joblib names where an array's bytes follow in the stream."""

EXTRAS: Final[Mapping[str, tuple[str, str]]] = {
    "sklearn": ("scikit-learn", "sklearn"),
    "joblib": ("joblib", "sklearn"),
    "skops": ("skops", "skops"),
    "xgboost": ("xgboost", "xgboost"),
    "lightgbm": ("lightgbm", "lightgbm"),
    "catboost": ("catboost", "catboost"),
    "pandas": ("pandas", "pandas"),
    "mlflow": ("mlflow", "mlflow"),
}
"""Top module to the library's name and the extra that installs it."""

RENAMED: Final[Mapping[str, str]] = {"_loss": "sklearn._loss._loss"}
"""Modules by a name they no longer have. scikit-learn 1.5 to 1.8 were built so that their losses name a module `_loss`;
boosted models written by them are read by other versions through this."""

_NEVER_WILD: Final = frozenset(sys.stdlib_module_names) | {"numpy", "scipy", "pandas", "joblib", "cloudpickle", "dill"}
_DENIED_PARTS: Final = frozenset(
    {"tests", "testing", "_testing", "conftest", "externals", "datasets", "callback", "estimator_checks", "_mocking"}
)


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What a pickle says of itself without being run."""

    root: str = ""
    """The class or function whose call gives the outermost object (`sklearn.pipeline.Pipeline`); empty: unknown."""
    globals: frozenset[str] = frozenset()
    """Every `module.qualname` that loading would import."""
    versions: Mapping[str, str] = EMPTY
    """`_sklearn_version` by class, from the states of estimators."""
    complete: bool = False
    """The stream was read to its end."""


class Loaded(msgspec.Struct, frozen=True):
    """An unpickled object, and what its classes had to say while they were rebuilt."""

    model: Any
    warnings: tuple[Warning, ...] = ()


def scan(path: Path) -> frozenset[str]:
    """The globals that a pickle names, as `module.qualname`; a file that is no pickle names none. Runs nothing."""
    return inspect(path).globals


def inspect(path: Path) -> Contents:
    """What a pickle says of itself. A file that is no pickle, or cannot be read, says nothing. Runs nothing."""
    try:
        stat = path.stat()
    except OSError:
        return Contents()
    return _inspect(str(path), stat.st_mtime_ns, stat.st_size, stat.st_ino)


def admits(name: str, allowed: tuple[str, ...], *, path: Path) -> bool:
    """Whether a file may name this global (`module.qualname`) under an allow-list: for formats that list their own.

    Raises:
        SettingsError: a pattern of the list is too wide.
    """
    module, _, last = name.rpartition(".")
    rules = _Rules(path, allowed)
    try:
        rules.find(module, last)
    except (UnsafeArtifact, LoadFailed, ImportError):
        return False
    return True


def load(path: Path, allowed: tuple[str, ...] | None) -> Any:
    """The object in a pickle or joblib file.

    Args:
        path: The file.
        allowed: Patterns on `module.qualname` that the file may name (`sklearn.*`, `numpy.dtype`); None: trusted.

    Raises:
        UnsafeArtifact: the file names something else, or uses what it may name in another way than to rebuild objects.
        MissingExtra: a library that the file names is not installed.
        LoadFailed: the file cannot be unpickled for another reason.
        SettingsError: a pattern is too wide to mean anything.
    """
    loaded = load_with_warnings(path, allowed)
    for warning in loaded.warnings:
        warnings.warn(warning, stacklevel=2)
    return loaded.model


def load_with_warnings(path: Path, allowed: tuple[str, ...] | None) -> Loaded:
    """As `load`, and the warnings raised meanwhile as values (scikit-learn's InconsistentVersionWarning and such)."""
    rules = None if allowed is None else _Rules(path, allowed)
    with recorded_warnings() as caught:
        try:
            model = _load_trusted(path) if rules is None else _load_restricted(path, rules)
        except HeadraceError:
            raise
        except ModuleNotFoundError as error:
            raise missing_module(path, error) from error
        except Exception as error:
            text = f"{path} cannot be unpickled: {type(error).__name__}: {error}"
            if isinstance(error, AttributeError) and any(name.startswith("__main__.") for name in scan(path)):
                text += (
                    "; it was defined in the script or notebook that saved the model: move it to a module that this "
                    "server can import, or save with cloudpickle, and train and save again"
                )
            raise LoadFailed(text) from error
    return Loaded(model, tuple(caught))


_RECORDING: Final = threading.RLock()


@contextlib.contextmanager
def recorded_warnings() -> Iterator[list[Warning]]:
    """Every warning raised inside, as a list filled at the end; none is shown.

    Python keeps its warning filters for the whole process, and two threads loading at once would restore each other's,
    so one records at a time.
    """
    messages: list[Warning] = []
    with _RECORDING, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
        messages.extend(entry.message for entry in caught if isinstance(entry.message, Warning))


# -- reading without running --


class _Inert:
    """Stands for whatever a pickle would have built. Takes everything, does nothing."""

    __slots__ = ("args", "name", "state")

    def __init__(self, name: str, args: Any = ()) -> None:
        self.name = name
        self.args = args
        self.state: Any = None

    def __setitem__(self, key: Any, value: Any) -> None:
        """Keep nothing."""

    def append(self, item: Any) -> None:
        """Keep nothing."""

    def add(self, item: Any) -> None:
        """Keep nothing."""

    def extend(self, items: Iterable[Any]) -> None:
        """Keep nothing."""


# The C unpickler reads ahead and would swallow an array's bytes, and lets nobody watch what it calls.
_PythonUnpickler: Any = pickle._Unpickler  # noqa: SLF001 - the one whose opcodes can be overridden


class _Dry(_PythonUnpickler):  # type: ignore[misc]  # its base is Any
    """An unpickler that builds inert placeholders only, and notes what it was asked for."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_PythonUnpickler.dispatch)

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")
        self.file = file
        self.named: set[str] = set()
        self.versions: dict[str, str] = {}

    def find_class(self, module: str, name: str) -> Any:
        module, name = _modern(self.proto, module, name)
        self.named.add(f"{module}.{name}")
        return _Inert(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        return _Inert("", pid)

    def get_extension(self, code: int) -> None:
        self.append(_Inert(""))

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = _Inert(_built(self.stack[-1], args), args)

    def load_newobj(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = _Inert(_named(self.stack[-1]), args)

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_newobj()

    def _instantiate(self, klass: Any, args: Any) -> None:
        self.append(_Inert(_named(klass), args))

    def load_build(self) -> None:
        state = self.stack.pop()
        built = self.stack[-1]
        if not isinstance(built, _Inert):
            return
        built.state = state
        if isinstance(state, dict) and isinstance(version := state.get("_sklearn_version"), str):
            self.versions[built.name] = version
        if built.name == ARRAY_WRAPPER:
            self._skip_array(state)

    def _skip_array(self, state: Any) -> None:
        """Go past the bytes of an array, as joblib laid them out."""
        code = state["dtype"].args[0]
        if code.startswith("O"):
            nested = _Dry(self.file)
            try:
                nested.load()
            finally:
                self.named |= nested.named
                self.versions |= nested.versions
            return
        if state.get("numpy_array_alignment_bytes") is not None:
            _skip(self.file, self.file.read(1)[0])
        _skip(self.file, math.prod(state["shape"]) * np.dtype(code).itemsize)

    for _opcode, _method in (
        (pickle.REDUCE, load_reduce),
        (pickle.NEWOBJ, load_newobj),
        (pickle.NEWOBJ_EX, load_newobj_ex),
        (pickle.BUILD, load_build),
    ):
        dispatch[_opcode[0]] = _method


# A few runtimes ask the same question of the same file while it is being recognised, and reading a large one takes
# seconds. The key is the file's identity and time, so a memo is never stale; it holds names only.
@functools.lru_cache(maxsize=16)
def _inspect(path: str, _mtime_ns: int, _size: int, _inode: int) -> Contents:
    try:
        file = _open(Path(path))
    except (OSError, EOFError, HeadraceError, zlib.error, lzma.LZMAError):
        return Contents()
    with file:
        dry = _Dry(file)
        root, complete = "", False
        with contextlib.suppress(
            Exception
        ):  # bytes that are no pickle fail in any way; what was named so far is the answer
            root, complete = _named(dry.load()), True
    return Contents(root=root, globals=frozenset(dry.named), versions=dict(dry.versions), complete=complete)


def _named(value: Any) -> str:
    return value.name if isinstance(value, _Inert) else f"builtins.{type(value).__name__}"


def _built(function: Any, args: Any) -> str:
    """The class of what a call gives: that of a reconstructor is its first argument."""
    name = _named(function)
    if (
        name in {"copyreg._reconstructor", "copyreg.__newobj__", "cloudpickle.cloudpickle._make_skeleton_class"}
        and args
    ):
        return _named(args[0])
    return name


def _skip(file: BinaryIO, count: int) -> None:
    if file.seekable():
        file.seek(count, io.SEEK_CUR)
        return
    while count > 0:
        piece = file.read(min(count, 1 << 20))
        if not piece:
            raise EOFError
        count -= len(piece)


# -- running a trusted file --


def _load_trusted(path: Path) -> Any:
    named = scan(path)
    if any(name.startswith("joblib.numpy_pickle_compat.") for name in named):  # joblib before 0.10: a file an array
        try:
            import joblib
        except ModuleNotFoundError as error:
            raise missing_extra("joblib", "sklearn", needed_by=str(path)) from error
        return joblib.load(path)
    with _open(path) as file:
        return _Reader(file, path).load() if ARRAY_WRAPPER in named else _Native(file).load()


class _Native(pickle.Unpickler):
    """The C unpickler, for what holds no arrays of joblib's."""

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(RENAMED.get(module, module), name)


class _ArrayWrapper:
    """joblib's description of the array whose bytes follow; the names are joblib's."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.order = "C"
        self.dtype: np.dtype[Any] = np.dtype(np.float64)
        self.numpy_array_alignment_bytes: int | None = None


class _Reader(_PythonUnpickler):  # type: ignore[misc]  # its base is Any
    """An unpickler that knows where joblib puts the bytes of arrays."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_PythonUnpickler.dispatch)

    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file)
        self.file = file
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" == ARRAY_WRAPPER:
            return _ArrayWrapper
        return super().find_class(RENAMED.get(module, module), name)

    def load_build(self) -> None:
        super().load_build()
        if type(self.stack[-1]) is _ArrayWrapper:
            self.stack[-1] = self._read_array(self.stack[-1])

    dispatch[pickle.BUILD[0]] = load_build

    def _read_array(self, wrapper: _ArrayWrapper) -> Array:
        shape: Any = wrapper.shape
        dtype: Any = wrapper.dtype
        if not (isinstance(dtype, np.dtype) and type(shape) is tuple and all(type(n) is int and n >= 0 for n in shape)):
            raise LoadFailed(f"{self.path} describes an array in a way joblib does not")
        if dtype.hasobject:
            return cast("Array", self._nested().load())
        if wrapper.numpy_array_alignment_bytes is not None:
            self.file.read(self.file.read(1)[0])
        data = _read_exactly(self.file, math.prod(shape) * dtype.itemsize, self.path)
        array: Array = np.ndarray(shape, dtype, buffer=data, order="F" if wrapper.order == "F" else "C")
        return array if dtype.isnative else array.astype(dtype.newbyteorder("="))

    def _nested(self) -> _Reader:
        """What reads an array of objects: a pickle of its own, under the same rules."""
        return _Reader(self.file, self.path)


_PLAIN: Final = frozenset({dict, tuple, list, bytes, bytearray, str, int, float, bool, type(None)})


class _Rules:
    """What a file may name, and which of those may be called how."""

    def __init__(self, path: Path, allowed: tuple[str, ...]) -> None:
        self.path = path
        self.exact = frozenset(pattern for pattern in allowed if not _is_wild(pattern))
        self.wild = tuple(pattern for pattern in allowed if _is_wild(pattern))
        for pattern in self.wild:
            top = pattern.partition(".")[0]
            if _is_wild(top) or top in _NEVER_WILD:
                raise SettingsError(
                    f"allowed global {pattern!r} is too wide: {top!r} holds code that does harm when rebuilt; "
                    "name each class"
                )

    def refuse(self, what: str) -> UnsafeArtifact:
        return UnsafeArtifact(
            f"{self.path} {what}, which the load policy refuses because a pickle can run any code; if you trust "
            "whoever made the file, set `load_policy: trusted` (of a command: `--load-policy trusted`); better, save "
            "the model as ONNX or skops"
        )

    def find(self, module: str, name: str) -> Any:
        """The object of that name, if the file may have it."""
        full = f"{module}.{name}"
        parts = module.split(".")
        if "." in name or not name.isidentifier() or not all(part.isidentifier() for part in parts):
            raise self.refuse(f"names {full!r}")
        if full in self.exact:
            return self._import(module, name)
        if not self._admits(module, name):
            raise self.refuse(f"names the global {full!r}")
        found = self._import(module, name)
        if not isinstance(found, type):
            raise self.refuse(f"names the global {full!r}, a {type(found).__name__} and not a class")
        if not self._admits(found.__module__, found.__qualname__):
            raise self.refuse(f"names the global {full!r}, which is {found.__module__}.{found.__qualname__}")
        return found

    def _admits(self, module: str, name: str) -> bool:
        full = f"{module}.{name}"
        return (
            not name.startswith("__")
            and _DENIED_PARTS.isdisjoint(module.split("."))
            and any(fnmatch.fnmatchcase(full, pattern) for pattern in self.wild)
        )

    def _import(self, module: str, name: str) -> Any:
        try:
            return getattr(importlib.import_module(module), name)
        except AttributeError as error:
            raise LoadFailed(
                f"{self.path} names {module}.{name}, which the installed {module} does not have"
            ) from error


class _Restricted(_Reader):
    """An unpickler under `_Rules`."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_Reader.dispatch)

    def __init__(self, file: BinaryIO, rules: _Rules) -> None:
        super().__init__(file, rules.path)
        self.rules = rules
        self.exact: dict[int, Any] = {}  # by id; holding the object keeps the id its own
        self.classes: dict[int, type] = {}

    def find_class(self, module: str, name: str) -> Any:
        module, name = _modern(self.proto, module, name)
        if f"{module}.{name}" == ARRAY_WRAPPER:
            self.classes[id(_ArrayWrapper)] = _ArrayWrapper
            return _ArrayWrapper
        found = _STAND_INS.get(f"{module}.{name}")
        if found is not None:
            self.exact[id(found)] = found
            return found
        found = self.rules.find(module, name)
        if f"{module}.{name}" in self.rules.exact:
            self.exact[id(found)] = found
        else:
            self.classes[id(found)] = found
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise self.rules.refuse("refers to an object outside itself")

    def get_extension(self, code: int) -> None:
        raise self.rules.refuse(f"names the extension {code}")

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], args)

    def _instantiate(self, klass: Any, args: Any) -> None:
        self.append(self._call(klass, tuple(args)))

    def load_newobj(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._new(self.stack[-1], args, {})

    def load_newobj_ex(self) -> None:
        kwargs = self.stack.pop()
        args = self.stack.pop()
        self.stack[-1] = self._new(self.stack[-1], args, kwargs)

    def load_build(self) -> None:
        built = self.stack[-2]
        if isinstance(built, (type, types.ModuleType)) or callable(getattr(built, "__get__", None)):
            raise self.rules.refuse(f"gives state to {built!r} itself")
        state = self.stack.pop()
        if type(state) not in _PLAIN:  # its methods would be whatever the file put under their names
            raise self.rules.refuse(f"gives {type(built).__name__} a state that is a {type(state).__name__}")
        if isinstance(built, np.dtype):
            self._replace(built, self._rebuild_dtype(built, state))
            return
        # Looked up on the class: an attribute that the file put on the instance is not a method.
        setstate = getattr(type(built), "__setstate__", None)
        if setstate is not None:
            setstate(built, state)
            return
        attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
        if any(part is not None and type(part) is not dict for part in (attributes, slots)):
            raise self.rules.refuse(f"gives {type(built).__name__} a state that is no dictionary")
        vars(built).update(attributes or {})
        for name, value in (slots or {}).items():
            if name.startswith("__"):
                raise self.rules.refuse(f"gives {type(built).__name__} the special attribute {name}")
            setattr(built, name, value)
        if type(built) is _ArrayWrapper:
            self.stack[-1] = self._read_array(built)
        elif type(built).__module__.startswith("scipy.sparse.") and hasattr(built, "check_format"):
            built.check_format(full_check=True)  # indices out of range would be followed by native code

    def _rebuild_dtype(self, plain: np.dtype[Any], state: Any) -> np.dtype[Any]:
        """The dtype that a state describes, made by numpy's constructor, which checks what it is told.

        Numpy's own `dtype.__setstate__` believes the flags it is given: an object dtype without its object flag reads
        bytes of the file as pointers, which is running code.
        """
        if type(state) is not tuple or len(state) < 8 or state[0] not in {3, 4}:
            raise self.rules.refuse("gives a dtype a state that numpy does not write")
        order, subarray, names, fields, itemsize = state[1:6]
        if subarray is not None:
            base, shape = subarray
            return np.dtype((_known_dtype(base), shape))
        if names is not None:
            formats = [_known_dtype(fields[name][0]) for name in names]
            offsets = [fields[name][1] for name in names]
            return np.dtype({"names": list(names), "formats": formats, "offsets": offsets, "itemsize": itemsize})
        if plain.kind in "mM" and len(state) > 8 and isinstance(state[8], tuple):
            unit, count = state[8][1][:2]
            unit = unit.decode() if isinstance(unit, bytes) else unit
            return np.dtype(f"{plain.kind}8" if unit == "generic" else f"{plain.kind}8[{count}{unit}]").newbyteorder(
                order
            )
        return plain if order == "|" else plain.newbyteorder(order)

    def _replace(self, built: Any, instead: Any) -> None:
        """Put another object where one is, on the stack and under the numbers that later parts of the file use."""
        self.stack[-1] = instead
        for key, value in self.memo.items():
            if value is built:
                self.memo[key] = instead

    # What grows a container calls its methods by name, and the file can put anything under a name of an instance.

    def load_append(self) -> None:
        self._grows(self.stack[-2], list, deque)
        super().load_append()

    def load_appends(self) -> None:
        self._grows(self.metastack[-1][-1], list, deque)
        super().load_appends()

    def load_additems(self) -> None:
        self._grows(self.metastack[-1][-1], set)
        super().load_additems()

    def load_setitem(self) -> None:
        self._grows(self.stack[-3], type(self.stack[-3]) if isinstance(self.stack[-3], dict) else dict)
        super().load_setitem()

    def load_setitems(self) -> None:
        grown = self.metastack[-1][-1]
        self._grows(grown, type(grown) if isinstance(grown, dict) else dict)
        super().load_setitems()

    def _grows(self, grown: Any, *kinds: type) -> None:
        if type(grown) not in kinds:
            raise self.rules.refuse(f"adds items to a {type(grown).__name__}")

    def _call(self, function: Any, args: Any) -> Any:
        """Call what the file named."""
        if id(function) in self.exact:
            check = _CHECKS.get(id(function))
            if check is not None and not check(args):
                raise self.rules.refuse(f"calls {function.__module__}.{function.__qualname__} in a way no library does")
            if function is _RECONSTRUCTOR:
                return self._new(args[0], (), {})
            return function(*args)
        if id(function) in self.classes:
            # Libraries rebuild instances without their constructor, unless it is native.
            if isinstance(function.__init__, types.FunctionType) or _has_python_new(function):
                raise self.rules.refuse(f"calls the constructor of {function.__module__}.{function.__qualname__}")
            return function(*args)
        raise self.rules.refuse("calls something it has not named")

    def _new(self, cls: Any, args: Any, kwargs: Any) -> Any:
        """Make an instance without its constructor."""
        if id(cls) not in self.classes and not (isinstance(cls, type) and id(cls) in self.exact):
            raise self.rules.refuse("makes an instance of something it has not named")
        if id(cls) in self.classes and _has_python_new(cls):
            if args or kwargs:
                raise self.rules.refuse(f"makes a {cls.__module__}.{cls.__qualname__} by code of its own")
            return object.__new__(cls)
        return cls.__new__(cls, *args, **kwargs)

    def _nested(self) -> _Reader:
        return _Restricted(self.file, self.rules)

    for _opcode, _method in (
        (pickle.REDUCE, load_reduce),
        (pickle.NEWOBJ, load_newobj),
        (pickle.NEWOBJ_EX, load_newobj_ex),
        (pickle.BUILD, load_build),
        (pickle.APPEND, load_append),
        (pickle.APPENDS, load_appends),
        (pickle.ADDITEMS, load_additems),
        (pickle.SETITEM, load_setitem),
        (pickle.SETITEMS, load_setitems),
    ):
        dispatch[_opcode[0]] = _method


def _load_restricted(path: Path, rules: _Rules) -> Any:
    with _open(path) as file:
        return _Restricted(file, rules).load()


def _read_exactly(file: BinaryIO, wanted: int, path: Path) -> bytearray:
    """The array's bytes, read piece by piece so that a lie about its size costs no memory. Writable."""
    data = bytearray()
    while len(data) < wanted:
        piece = file.read(min(wanted - len(data), 1 << 24))
        if not piece:
            raise LoadFailed(f"{path} ends within an array of {wanted} bytes")
        data += piece
    return data


def _known_dtype(value: Any) -> np.dtype[Any]:
    if not isinstance(value, np.dtype):
        raise TypeError(f"expected a dtype, came {type(value).__name__}")
    return value


def _has_python_new(cls: type) -> bool:
    return isinstance(cls.__new__, types.FunctionType) and not issubclass(cls, tuple)


class _ArrayType:
    """Stands for `numpy.ndarray` in a restricted file: the real one, called with a buffer and a dtype of objects, takes
    bytes for pointers. Only `_reconstruct` and `_mareconstruct` understand it.
    """

    def __new__(cls, *_: object) -> Self:
        """Refuse: no pickle that means well calls it."""
        raise UnsafeArtifact("the file calls numpy.ndarray itself, which could pass bytes off as objects")


def _reconstruct(kind: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """What `numpy.core.multiarray._reconstruct` does for plain arrays, which is all that models hold."""
    if kind is not _ArrayType:
        raise TypeError(f"expected numpy.ndarray, came {kind!r}")
    return np.zeros(shape, dtype)


def _mareconstruct(kind: Any, base: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """What `numpy.ma.core._mareconstruct` does for plain masked arrays."""
    if kind is not np.ma.MaskedArray or base is not _ArrayType:
        raise TypeError(f"expected numpy.ma.MaskedArray of numpy.ndarray, came {kind!r} of {base!r}")
    return np.ma.MaskedArray(np.zeros(shape, dtype))


_STAND_INS: Final[Mapping[str, Any]] = {
    "numpy.ndarray": _ArrayType,
    "numpy.matrix": _ArrayType,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy.ma.core._mareconstruct": _mareconstruct,
}


def _dtype_code(args: Any) -> bool:
    return 1 <= len(args) <= 3 and isinstance(args[0], str) and _CODE.fullmatch(args[0]) is not None


_CODE: Final = re.compile(r"[<>|=]?[?a-zA-Z]\d*")


def _plain_object(args: Any) -> bool:
    return len(args) == 3 and isinstance(args[0], type) and args[1] is object and args[2] is None


def _latin(args: Any) -> bool:
    return len(args) == 2 and isinstance(args[0], str) and args[1] in {"latin1", "latin-1", "utf-8"}


_RECONSTRUCTOR: Final[Any] = copyreg._reconstructor  # type: ignore[attr-defined] # noqa: SLF001 - as protocols 0 and 1 name it
_CHECKS: Final[Mapping[int, Callable[[Any], bool]]] = {
    id(_RECONSTRUCTOR): _plain_object,
    id(_codecs.encode): _latin,
    id(np.dtype): _dtype_code,
}
"""How functions that could do more are called by pickles that mean well."""


# -- what both readers share --


def _modern(protocol: int, module: str, name: str) -> tuple[str, str]:
    """The name as Python 3 has it; protocols below 3 use Python 2's."""
    if protocol < 3:
        if (module, name) in _compat_pickle.NAME_MAPPING:
            return _compat_pickle.NAME_MAPPING[module, name]
        module = _compat_pickle.IMPORT_MAPPING.get(module, module)
    return RENAMED.get(module, module), name


def _is_wild(pattern: str) -> bool:
    return any(letter in pattern for letter in "*?[")


class _Inflated(io.RawIOBase):
    """A zlib stream, as joblib's default compression writes it."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._inflate = zlib.decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        while not self._inflate.eof:
            compressed = self._inflate.unconsumed_tail or self._file.read(1 << 16)
            if not compressed:
                raise EOFError("the compressed stream ends too early")
            piece = self._inflate.decompress(compressed, len(view))
            if piece:
                view[: len(piece)] = piece
                return len(piece)
        return 0

    def close(self) -> None:
        self._file.close()
        super().close()


_MAGIC: Final[Mapping[bytes, str]] = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ": "lzma",
    b"\x5d\x00": "lzma",
    b"\x04\x22\x4d\x18": "lz4",
    b"x\x01": "zlib",
    b"x\x5e": "zlib",
    b"x\x9c": "zlib",
    b"x\xda": "zlib",
}


def _compression(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(8)
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")


def _open(path: Path) -> BinaryIO:
    """The file, decompressed as it is read."""
    kind = _compression(path)
    if kind == "gzip":
        return cast("BinaryIO", gzip.open(path))
    if kind == "bz2":
        return cast("BinaryIO", bz2.open(path))
    if kind == "lzma":
        return cast("BinaryIO", lzma.open(path))
    if kind == "lz4":
        try:
            frame = importlib.import_module("lz4.frame")
        except ModuleNotFoundError as error:
            raise MissingExtra(
                f"{path} is compressed with lz4, which is not installed; run: pip install lz4"
            ) from error
        return cast("BinaryIO", frame.open(path))
    if kind == "zlib":
        return cast("BinaryIO", io.BufferedReader(_Inflated(path.open("rb"))))
    return path.open("rb")


def missing_module(path: Path, error: ModuleNotFoundError) -> LoadFailed:
    """The error for a module that an artifact needs and that is not there: which package or extra, or which version."""
    module = error.name or ""
    top = module.partition(".")[0]
    if module == top and top in EXTRAS:
        library, extra = EXTRAS[top]
        return missing_extra(library, extra, needed_by=str(path))
    if module == top:
        return MissingExtra(
            f"{path} needs the module {module!r}, which is not installed; install the package that has it, or put the "
            "module where Python finds it (PYTHONPATH)"
        )
    return LoadFailed(
        f"{path} needs the module {module!r}, which the installed {top} does not have: the file was written by another "
        "version of it"
    )
