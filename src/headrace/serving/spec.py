"""What a person says of one model, and what discovery found out about it: the input of the load step.

`discovery` makes a `ModelSpec` for each model version, with what `read_yaml` finds in the `headrace.yaml` beside it;
the repository loads it. The docstrings under the fields are the reference of headrace.yaml. Nothing here opens a file
but `read_yaml` and `warm_up_bodies`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec
import yaml

from headrace.errors import InvalidRequest, LoadFailed, NotSupported, SettingsError, unknown_key
from headrace.payload import DTYPES, EMPTY, TensorSpec
from headrace.serving.batching import Batching
from headrace.trust.spec import Extraction, OutputPolicy, Trust, Validation

FILE: Final = "headrace.yaml"
"""The name of the file beside a model. `STEM.headrace.yaml` speaks for one file among several."""
EXPLAINER: Final = "explainer"
"""The runtime of a model that explains another."""

Overrides = Mapping[str, Any]
"""Fields of ModelSpec that somebody set, by name; those absent were not set."""


class Cache(msgspec.Struct, frozen=True, kw_only=True):
    """How many answers are kept for equal requests."""

    max_entries: int = 1000
    """The least recently used answer leaves first."""
    max_bytes: int = 64 << 20
    """Of questions and answers together."""
    ttl_seconds: float = 0.0
    """How long an answer is good; 0: until it leaves or the model is loaded again."""


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One version of one model: where it is and how it is to be served."""

    name: str
    """What callers ask for: letters, digits and `-._~`. Default: the folder's name, or the file's without its suffix.
    Set it when that name is not what callers should know."""
    version: str = ""
    """Which version of the model this is; of several, the newest is served when a caller names none. Default: the
    version folder's name, else none."""
    runtime: str = ""
    """Which runtime loads the model: `sklearn`, `onnx`, ..., or `module:Class` of your own. Default: recognised from
    the file's content. Set it when two runtimes could load the file, or when recognition fails."""
    path: str = ""
    """The model's file or folder, relative to headrace.yaml. Default: the one that is recognised there. Set it when the
    folder holds several."""
    reference: str = ""
    """`module:Class` of a model written in Python; a module beside headrace.yaml is found first. Default: none. Set it
    to serve your own code."""
    inputs: tuple[TensorSpec, ...] = ()
    """The model's inputs, in place of what the model says: `name`, `datatype`, `shape` (-1 varies), `content_type`,
    `optional`, `labels`. Default: the model's own. Set it when the model cannot know, or to rename or retype."""
    outputs: tuple[TensorSpec, ...] = ()
    """The model's outputs, as `inputs`. Default: the model's own."""
    batching: Batching | None = None
    """How requests are merged into one predict: `max_batch_size` (rows, default 64; 1 turns merging off),
    `max_wait_seconds` (seconds, default 0), `max_queue_size` (requests, default 1000; one more is answered 503).
    Default: those. Lower the size when memory is short, raise the wait only when measured to help."""
    placement: Literal["auto", "inline", "thread", "process"] = "auto"
    """Where predict runs. Default: the server's `models.placement`, which is `auto`: measured at load. Set `process`
    for a model that may crash or hang."""
    replicas: int = 1
    """Copies that predict at the same time, in threads or processes. Default: the server's `models.replicas`, 1. Raise
    it when one copy is busy all the time and cores or devices are free."""
    predict_timeout_seconds: float = 60.0
    """How long one predict in a process may take, in seconds, before the process counts as hung and is started again.
    Default: the server's `models.predict_timeout_seconds`, 60. Raise it for slow models."""
    warm_up: tuple[Mapping[str, Any] | str, ...] = ()
    """Requests to predict before the first caller's: V2 JSON bodies (`inputs: [...]`), or names of files that hold one,
    relative to headrace.yaml. A failing one fails the load. Default: one row made from the signature. Set it when the
    first real requests are slower than later ones, or as a check that the model answers at all."""
    optimize: Literal["auto", "require", "off"] = "auto"
    """Whether the model gets a faster engine, proven equal: `auto` while it already serves, `require` at load or not
    at all. Default: the server's `models.optimize`, which is `auto`."""
    load_policy: Literal["auto", "restricted", "trusted"] = "auto"
    """What a pickle may import while it is loaded: `restricted` allows the known libraries, `trusted` anything, `auto`
    trusts files that only the server's own user could have written. Default: the server's `models.load_policy`. Set
    `trusted` only for files you made."""
    parameters: Mapping[str, Any] = EMPTY
    """What the runtime or your own class takes beyond this, by name. Default: none. A name that the runtime does not
    know is an error. Set what the runtime's page in the docs lists."""

    cache: Cache | None = None
    """Answers kept for equal requests: `max_entries` (default 1000), `max_bytes` (default 64 MiB), `ttl_seconds`
    (default 0: no end). Default: none are kept. Set it (`cache: {}` is enough) for a model whose answer depends on its
    input alone and whose callers repeat themselves."""
    environment: str = "auto"
    """The packages the model runs with. `auto`: the server's own where they satisfy the requirements.txt, conda.yaml or
    python_env.yaml beside the model, else an environment built from that file, once; `build`: always one built; `off`:
    the server's own, whatever the file says; else the path of a virtual or conda environment, or of a packed one
    (`.tar.gz`). Default: the server's `models.environment`, which is `auto`."""

    idle_seconds: float = 0.0
    """After so many seconds without a request the model leaves memory; the next request waits for its load. Default: 0,
    it stays. Set it for models that are asked seldom, to have their memory for others."""
    on_demand: bool = False
    """Whether the model is loaded by the first request for it, or by hand, rather than at start. Until then nothing is
    known of its inputs and outputs, a broken one is not noticed, and paths of its own are not there. Default: false.
    Set it where there are more models than a start should load."""
    memory_bytes: int = 0
    """What the model takes of memory, in bytes, for planning its first load under a memory budget; after that, what it
    was measured to take. Default: 0: the size of its files. Set it for models far larger than their files."""

    trust: Trust | None = None
    """What is done with the model's `trust` folder (`headrace trust fit` writes it): `enabled` (default true), `path`
    (default: `trust` beside the model), `validation` (`mode: off|flag|reject`, `tolerance`: a share of the range seen,
    default 0.1), `outputs` (by role of the caller, or `default`: `decimals`, `top_k`, `label_only`), `extraction`
    (`actions`: of `log`, `round`, `label_only`, `throttle`, `block`, one after the other; `window`, `threshold`,
    `throttle_per_second`, `block_seconds`), `canaries` (whether the model must still answer as when the folder was
    made: `off|warn|require`, default `warn`), `audit` (default false). Default: the folder's detectors and explainers,
    and no guards. Set it to check requests before they are answered, or to answer less."""

    # Found by discovery or given by code; no keys of headrace.yaml.
    dialect: str = ""
    """The server that the model's settings were written for: `mlserver`. Its answers have that server's shapes, names
    and headers."""
    declared: Mapping[str, Any] = EMPTY
    """What foreign settings declare for metadata, in the V2 metadata's own members."""
    warnings: tuple[str, ...] = ()
    """What of the model's settings is not honoured, and why."""
    load_at_start: bool = True
    """False: the model waits, UNAVAILABLE, until a repository load asks for it."""
    folder: str = ""
    """Where headrace.yaml or the model's file is, absolute."""
    watched: tuple[str, ...] = ()
    """Files beside `path` and `reference` that the model depends on, absolute: hot reload looks at them too."""
    evidence: str = ""
    """Why the runtime was chosen, for a person."""
    model: Any = None
    """The model itself, when it is in memory already (a notebook); `path` and `reference` are empty then."""

    def __repr__(self) -> str:
        place = self.path or self.reference or f"{type(self.model).__name__} in memory"
        return f"<ModelSpec {self.describe()}: {self.runtime or 'any runtime'}, {place}>"

    @property
    def explains_at(self) -> str:
        """Of a model that explains another: the name at which it is asked why, in place of what stands there (its
        parameter `endpoint`); empty: at its own alone.
        """
        return str(self.parameters.get("endpoint") or "") if self.runtime == EXPLAINER else ""

    def describe(self) -> str:
        """The model as a message names it."""
        return f"model '{self.name}'" + (f" version '{self.version}'" if self.version else "")


_NAME: Final = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,127}")


def check_name(name: str, *, where: str, what: str = "name") -> str:
    """The name or version, if it can stand in a URL as it is.

    The characters are the unreserved ones of RFC 3986, section 2.3; a dot cannot be the first.

    Raises:
        SettingsError: it cannot; says which letters can, and how to give the model another name.
    """
    if _NAME.fullmatch(name):
        return name
    raise SettingsError(
        f"{where}: {what} {name!r} cannot stand in a URL; expected up to 128 letters, digits and '-._~'. "
        f"Rename the file or folder, or set '{what}' in {FILE}"
    )


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """What a headrace.yaml sets, as fields of ModelSpec; pure.

    Args:
        text: The file's content; empty sets nothing.
        where: The file, as messages name it.

    Raises:
        SettingsError: not YAML, a key nobody knows or given twice, a value of the wrong kind; names file, line and key.
    """
    try:
        node = _compose(text, where)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise SettingsError(f"{where}{line}: not valid YAML: {' '.join(str(problem).split())}") from error
    if node is None or (isinstance(node, yaml.ScalarNode) and node.tag == _NULL):
        return {}
    return _fields(node, _Place(where, ""), _KEYS)


def read_yaml(folder: Path, stem: str = "") -> dict[str, Any]:
    """What the headrace.yaml in a folder sets, files that it names found beside it; nothing when there is none.

    Args:
        folder: Where it may be.
        stem: Of the file that it speaks for, where it speaks for one among several.

    Raises:
        SettingsError: as of `parse_yaml`, or the file is not UTF-8.
    """
    file = folder / (f"{stem}.{FILE}" if stem else FILE)
    if not file.is_file():
        return {}
    try:
        found = parse_yaml(file.read_text(encoding="utf-8"), str(file))
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file}: expected text in UTF-8, came byte {error.object[error.start]:#04x}") from error
    if "warm_up" in found:
        found["warm_up"] = tuple(str(folder / each) if isinstance(each, str) else each for each in found["warm_up"])
    if match := REFERENCE.fullmatch(found.get("reference", "")):
        module = folder.joinpath(*match["module"].split(".")).with_suffix(".py")
        if module.is_file():
            found["reference"] = f"{module}:{match['attribute']}"
    return found


def render(overrides: Overrides) -> str:
    """The headrace.yaml that sets these fields; `parse_yaml` of it gives them back."""
    plain = {key: _plain(value) for key, value in overrides.items()}
    return yaml.dump(plain, Dumper=yaml.CSafeDumper, sort_keys=False, default_flow_style=None) if plain else ""


REMOTE_KEYS: Final = (
    "inputs",
    "outputs",
    "batching",
    "placement",
    "replicas",
    "predict_timeout_seconds",
    "warm_up",
    "optimize",
)
"""What a caller of the repository API may set. The rest decides which code runs and stays with who owns the files."""


def parse_config(text: str) -> dict[str, Any]:
    """The `config` of a repository load: JSON with keys of headrace.yaml, or Triton's `max_batch_size`.

    Raises:
        InvalidRequest: not a JSON object, a key that is unknown or not for callers, or a value of the wrong kind.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"parameter 'config' is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidRequest(f"parameter 'config': expected a JSON object, came {type(content).__name__}")
    refused = [key for key in content if key in _KEYS and key not in REMOTE_KEYS]
    if refused:
        raise InvalidRequest(
            f"parameter 'config': '{refused[0]}' decides which code runs, so it cannot be set by a request; "
            f"set it in {FILE} beside the model"
        )
    if "max_batch_size" in content:
        if "batching" in content:
            raise InvalidRequest("parameter 'config': 'max_batch_size' and 'batching' say the same; keep 'batching'")
        content["batching"] = {"max_batch_size": content.pop("max_batch_size") or 1}  # Triton: 0 means unbatched
    keys = {key: _KEYS[key] for key in REMOTE_KEYS}
    try:
        node = _compose(yaml.dump(content, Dumper=yaml.CSafeDumper), "parameter 'config'")
        found = _fields(node, _Place("parameter 'config'", ""), keys) if node is not None else {}
    except SettingsError as error:
        raise InvalidRequest(str(error)) from error
    except (RecursionError, ValueError, yaml.YAMLError) as error:  # lone surrogates, absurd nesting
        raise InvalidRequest(f"parameter 'config' is not what headrace.yaml could hold: {error}") from error
    if any(isinstance(sample, str) for sample in found.get("warm_up", ())):
        raise InvalidRequest("parameter 'config': 'warm_up' may hold V2 JSON bodies only, no file names")
    return found


def config_of(parameters: Mapping[str, Any]) -> Overrides:
    """What the parameters of a repository load set, by the name of the field.

    Raises:
        InvalidRequest: an unknown parameter, or a wrong config.
        NotSupported: a file is to be uploaded.
    """
    for name, value in parameters.items():
        if name.startswith("file:"):
            raise NotSupported(
                f"parameter {name!r}: models are not uploaded in a request; put the file where the server looks for "
                f"models, then load"
            )
        if name != "config":
            raise InvalidRequest(f"unknown parameter {name!r} of a load; known is 'config'")
        if not isinstance(value, str):
            raise InvalidRequest(f"parameter 'config': expected JSON text, came {type(value).__name__}")
    return parse_config(parameters["config"]) if "config" in parameters else EMPTY


def warm_up_bodies(spec: ModelSpec) -> list[bytes]:
    """The warm-up requests as V2 JSON bodies, files read. Blocks for as long as that takes.

    Raises:
        LoadFailed: a file cannot be read.
    """
    bodies = []
    for sample in spec.warm_up:
        if not isinstance(sample, str):
            bodies.append(msgspec.json.encode(sample))
            continue
        try:
            bodies.append(Path(spec.folder, sample).read_bytes())
        except OSError as error:
            raise LoadFailed(
                f"{spec.describe()}: warm-up sample {sample!r} cannot be read: {error.strerror or error}"
            ) from error
    return bodies


TUNED: Final = ("idle_seconds", "on_demand", "memory_bytes")
"""Fields that a version which serves can take over without being loaded again."""

_MAX_DEPTH: Final = 64


def _compose(text: str, where: str) -> yaml.Node | None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):  # counted first: compose recurses in C, with no limit
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark is not None else 0
                raise SettingsError(f"{where}:{line}: nested deeper than {_MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    node: yaml.Node | None = yaml.compose(text, Loader=yaml.CSafeLoader)
    return node


# -- the keys of headrace.yaml: node -> value --


class _Place(msgspec.Struct, frozen=True):
    file: str
    key: str

    def of(self, key: str) -> _Place:
        return _Place(self.file, f"{self.key}.{key}" if self.key else key)

    def at(self, index: int) -> _Place:
        return _Place(self.file, f"{self.key}[{index}]")

    def line(self, node: yaml.Node) -> str:
        return f"{self.file}:{node.start_mark.line + 1}"

    def wrong(self, node: yaml.Node, expected: str) -> SettingsError:
        key = f"key '{self.key}': " if self.key else ""
        return SettingsError(f"{self.line(node)}: {key}expected {expected}, came {_came(node)}")


_Parser = Callable[[yaml.Node, _Place], Any]

_TAG: Final = "tag:yaml.org,2002:"
_NULL: Final = f"{_TAG}null"
_KINDS: Final = MappingProxyType(
    {f"{_TAG}str": "text", f"{_TAG}int": "the number", f"{_TAG}float": "the number", f"{_TAG}bool": "the boolean"}
)


def _came(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    if node.tag == _NULL:
        return "nothing"
    shown = node.value if len(node.value) <= 80 else node.value[:77] + "..."
    return f"{_KINDS.get(node.tag, 'the value')} {shown!r}"


def _entries(node: yaml.Node, place: _Place, expected: str) -> Iterable[tuple[str, yaml.Node, yaml.Node]]:
    if not isinstance(node, yaml.MappingNode):
        raise place.wrong(node, expected)
    seen = set()
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag != f"{_TAG}str":
            raise place.wrong(key, "a key that is text")
        if key.value in seen:
            raise SettingsError(f"{place.line(key)}: key '{place.of(key.value).key}' is given twice")
        seen.add(key.value)
        yield key.value, key, value


def _fields(node: yaml.Node, place: _Place, keys: Mapping[str, _Parser]) -> dict[str, Any]:
    found = {}
    for name, key, value in _entries(node, place, "keys and values"):
        if name not in keys:
            where = place.line(key) + (f": key '{place.key}'" if place.key else "")
            raise unknown_key(name, keys, where=where)
        found[name] = keys[name](value, place.of(name))
    return found


def _text(node: yaml.Node, place: _Place) -> str:
    if isinstance(node, yaml.ScalarNode) and node.tag == f"{_TAG}str" and node.value:
        return str(node.value)
    raise place.wrong(node, "text (in quotes, if it looks like something else)")


def _name(node: yaml.Node, place: _Place) -> str:
    return check_name(_text(node, place), where=place.line(node), what=place.key)


def _version(node: yaml.Node, place: _Place) -> str:
    # As written: 1.10 is not 1.1, and 007 is not 7.
    if isinstance(node, yaml.ScalarNode) and node.tag in {f"{_TAG}str", f"{_TAG}int", f"{_TAG}float"}:
        return check_name(node.value, where=place.line(node), what="version")
    raise place.wrong(node, "a version such as 3 or v2")


def _flag(node: yaml.Node, place: _Place) -> bool:
    if isinstance(node, yaml.ScalarNode) and node.tag == f"{_TAG}bool":
        return node.value.lower() in {"true", "yes", "on"}
    raise place.wrong(node, "true or false")


def _choice(*choices: str) -> _Parser:
    def parse(node: yaml.Node, place: _Place) -> str:
        # The word as written: YAML would read a bare `off` as false.
        if isinstance(node, yaml.ScalarNode) and node.value in choices:
            return str(node.value)
        raise place.wrong(node, f"one of {', '.join(choices)}")

    return parse


def _whole(*, least: int | None) -> _Parser:
    expected = "a whole number" + (f" of {least} or more" if least is not None else "")

    def parse(node: yaml.Node, place: _Place) -> int:
        value = _scalar(node, place) if node.tag == f"{_TAG}int" else None
        if not isinstance(value, int) or (least is not None and value < least):
            raise place.wrong(node, expected)
        return value

    return parse


def _seconds(node: yaml.Node, place: _Place) -> float:
    value = _scalar(node, place) if node.tag in {f"{_TAG}int", f"{_TAG}float"} else None
    if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise place.wrong(node, "seconds, 0 or more")
    return float(value)


def _items(parse: _Parser, *, what: str) -> _Parser:
    def parse_all(node: yaml.Node, place: _Place) -> tuple[Any, ...]:
        if not isinstance(node, yaml.SequenceNode):
            raise place.wrong(node, f"a list of {what}")
        return tuple(parse(item, place.at(index)) for index, item in enumerate(node.value))

    return parse_all


_BATCHING: Final[Mapping[str, _Parser]] = MappingProxyType(
    {"max_batch_size": _whole(least=1), "max_wait_seconds": _seconds, "max_queue_size": _whole(least=1)}
)


def _batching(node: yaml.Node, place: _Place) -> Batching:
    return Batching(**_fields(node, place, _BATCHING))


_CACHE: Final[Mapping[str, _Parser]] = MappingProxyType(
    {"max_entries": _whole(least=1), "max_bytes": _whole(least=1), "ttl_seconds": _seconds}
)


def _cache(node: yaml.Node, place: _Place) -> Cache:
    return Cache(**_fields(node, place, _CACHE))


def _number(*, least: float, most: float = math.inf) -> _Parser:
    expected = f"a number of {least:g} or more" if most == math.inf else f"a number from {least:g} to {most:g}"

    def parse(node: yaml.Node, place: _Place) -> float:
        value = _scalar(node, place) if node.tag in {f"{_TAG}int", f"{_TAG}float"} else None
        if not isinstance(value, int | float) or not least <= value <= most:
            raise place.wrong(node, expected)
        return float(value)

    return parse


_VALIDATION: Final[Mapping[str, _Parser]] = MappingProxyType(
    {"mode": _choice("off", "flag", "reject"), "tolerance": _number(least=0)}
)
_OUTPUT_POLICY: Final[Mapping[str, _Parser]] = MappingProxyType(
    {"decimals": _whole(least=0), "top_k": _whole(least=1), "label_only": _flag}
)
_EXTRACTION: Final[Mapping[str, _Parser]] = MappingProxyType(
    {
        "actions": _items(_choice("log", "round", "label_only", "throttle", "block"), what="actions"),
        "window": _whole(least=20),
        "threshold": _number(least=0, most=1),
        "throttle_per_second": _number(least=0.001),
        "block_seconds": _seconds,
    }
)


def _outputs_by_role(node: yaml.Node, place: _Place) -> Mapping[str, OutputPolicy]:
    return {
        role: OutputPolicy(**_fields(value, place.of(role), _OUTPUT_POLICY))
        for role, _, value in _entries(node, place, "roles, each with decimals, top_k or label_only")
    }


_TRUST: Final[Mapping[str, _Parser]] = MappingProxyType(
    {
        "enabled": _flag,
        "path": _text,
        "validation": lambda node, place: Validation(**_fields(node, place, _VALIDATION)),
        "outputs": _outputs_by_role,
        "extraction": lambda node, place: Extraction(**_fields(node, place, _EXTRACTION)),
        "canaries": _choice("off", "warn", "require"),
        "audit": _flag,
    }
)


def _trust(node: yaml.Node, place: _Place) -> Trust:
    return Trust(**_fields(node, place, _TRUST))


_TENSOR: Final[Mapping[str, _Parser]] = MappingProxyType(
    {
        "name": _text,
        "datatype": _choice(*DTYPES),
        "shape": _items(_whole(least=-1), what="whole numbers, -1 for what varies"),
        "content_type": _text,
        "optional": _flag,
        "labels": _items(_text, what="texts"),
    }
)


def _tensor(node: yaml.Node, place: _Place) -> TensorSpec:
    found = _fields(node, place, _TENSOR)
    missing = [name for name in ("name", "datatype", "shape") if name not in found]
    if missing:
        raise SettingsError(f"{place.line(node)}: key '{place.key}': '{missing[0]}' is missing")
    return TensorSpec(**found)


def _tensors(node: yaml.Node, place: _Place) -> tuple[TensorSpec, ...]:
    tensors: tuple[TensorSpec, ...] = _items(_tensor, what="tensors")(node, place)
    names = [each.name for each in tensors]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"{place.line(node)}: key '{place.key}': two tensors are named {name!r}")
    return tensors


def _sample(node: yaml.Node, place: _Place) -> Mapping[str, Any] | str:
    if isinstance(node, yaml.ScalarNode):
        return _text(node, place)
    sample = _mapping(node, place)
    if not isinstance(sample.get("inputs"), list):
        raise place.wrong(node, "a file name, or a V2 request with a list of 'inputs'")
    return sample


def _mapping(node: yaml.Node, place: _Place) -> dict[str, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise place.wrong(node, "keys and values")
    value: dict[str, Any] = _anything(node, place, ())
    return value


def _anything(node: yaml.Node, place: _Place, above: tuple[int, ...]) -> Any:
    if id(node) in above:
        raise SettingsError(f"{place.line(node)}: key '{place.key}' contains itself")
    inside = (*above, id(node))
    if isinstance(node, yaml.MappingNode):
        return {
            name: _anything(value, place.of(name), inside)
            for name, _, value in _entries(node, place, "keys and values")
        }
    if isinstance(node, yaml.SequenceNode):
        return [_anything(item, place.at(index), inside) for index, item in enumerate(node.value)]
    return _scalar(node, place)


def _scalar(node: yaml.Node, place: _Place) -> Any:
    if node.tag == f"{_TAG}timestamp":  # JSON has none, so nothing that is passed on takes one
        return node.value
    if node.tag not in _KINDS and node.tag != _NULL:
        raise place.wrong(node, "text, a number, a boolean, a list or a mapping")
    try:
        return yaml.CSafeLoader("").construct_object(node)
    except (ValueError, LookupError, yaml.YAMLError) as error:  # `!!int many`
        raise place.wrong(node, "text, a number or a boolean") from error


def _reference(node: yaml.Node, place: _Place) -> str:
    text = _text(node, place)
    if not REFERENCE.fullmatch(text):
        raise place.wrong(node, "module:Class")
    return text


REFERENCE: Final = re.compile(r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<attribute>[^\W\d]\w*)")
"""`module:Class`."""

_KEYS: Final[Mapping[str, _Parser]] = MappingProxyType(
    {
        "name": _name,
        "version": _version,
        "runtime": _text,
        "path": _text,
        "reference": _reference,
        "inputs": _tensors,
        "outputs": _tensors,
        "batching": _batching,
        "placement": _choice("auto", "inline", "thread", "process"),
        "replicas": _whole(least=1),
        "predict_timeout_seconds": _seconds,
        "warm_up": _items(_sample, what="V2 requests or file names"),
        "optimize": _choice("auto", "require", "off"),
        "load_policy": _choice("auto", "restricted", "trusted"),
        "parameters": _mapping,
        "cache": _cache,
        "trust": _trust,
        "environment": _text,
        "idle_seconds": _seconds,
        "on_demand": _flag,
        "memory_bytes": _whole(least=0),
    }
)

KEYS: Final = tuple(_KEYS)
"""The keys of headrace.yaml, in the order of the reference; each is a field of ModelSpec."""


def _plain(value: Any) -> Any:
    """A field's value in what YAML can write; a tensor's defaults are left out."""
    if isinstance(value, Batching):
        return {key: getattr(value, key) for key in _BATCHING}
    if isinstance(value, Cache):
        return {key: getattr(value, key) for key in _CACHE}
    if isinstance(value, Trust):
        return msgspec.to_builtins(value)
    if isinstance(value, TensorSpec):
        shown = {key: getattr(value, key) for key in _TENSOR}
        kept = {key: each for key, each in shown.items() if key in {"name", "datatype", "shape"} or each}
        return _plain(kept)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    return value
