"""Asks the `mlserver` package and our stand-in for it the same questions, in an interpreter each, and compares.

    python tests/differential/shim.py --original VENV/bin/python

prints the differences as JSON: declared ones with the reason, others under `undeclared`, which also make the exit
status 1. Both interpreters need numpy and pandas of the same version, as their texts are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "shim_corpus.py"
SOURCE = HERE.parents[1] / "src"
SECONDS = 120
OURS = (
    "import runpy, sys; import headrace.compat; headrace.compat.provide(always=True); "
    "runpy.run_path(sys.argv[1], run_name='__main__')"
)

CALLERS_FAULT = "a tensor that is not what it says is the caller's fault: 400 that names the tensor, not 500"
BYTES = "arrays of BYTES: every element whole, instead of an error or elements cut to the last dimension"
NULLS = "nulls reach data frames and leave them, and pandas' own dtypes are known"
HINTS = "list[str] and X | None are read as List[str] and Optional[X], in outputs too"
MORE_TAKEN = "works, where the original raises for no reason a model could rely on"
METRICS = "metrics are drained to the server, not kept in a registry of prometheus_client"

DECLARED: dict[str, str] = {
    r"^(bytes|numpy): NumpyCodec\.decode_(in|out)put\(.*(BYTES|'cd|'cde)": BYTES,
    r"^numpy: NumpyCodec\.decode_input\(RI\(\[(1,2,3|1,None|300|1,2)\]": CALLERS_FAULT,
    r"^bytes: NumpyCodec\.decode_input\(I\('a',(\['zz'\]|b')": CALLERS_FAULT,
    r"^(text|lookups): .*(xff|'zz'|é|\[\['YWJj'\]\])": CALLERS_FAULT,
    r"^lookups: decode_request_input\(RI\(\[1,2\]": CALLERS_FAULT,
    r"^arguments: call\(f1,R\(I\('x',\[1,2\],'FP32',\[1\]\)\)\)": CALLERS_FAULT,
    r"^arguments: call\(f(1,R\(\)|4,R\(x\)|6,R\(I\('s')": "an argument without input is the caller's fault: 400, not 500",
    r"^arguments: call\(f(23|25|27),": HINTS,
    r"^lookups: find_input_codec\(type_hint=list\[str\]\)": HINTS,
    r"^lookups: find_(input|request)_codec\(payload=(\[\]|pd)": MORE_TAKEN,
    r"^lookups: inject_batch_dimension\(\(3,\)\)": MORE_TAKEN,
    r"^numpy: NumpyCodec\.encode_output\('a',np\.array\(\[1\],dtype='>i4'\)\)": MORE_TAKEN,
    r"^numpy: convert_nan\(": NULLS,
    r"^(frames|arguments): .*(PandasCodec|rt\(|call\(f5)": NULLS,
    r"^types: TensorData\.model_json_schema": "our types have docstrings, which pydantic shows as descriptions",
    r"^model: .*predict_stream\(None\)": "a stream that is none",
    r"^settings: ModelSettings\.model_validate\(ModelSettings": MORE_TAKEN,
    r"^settings: ModelSettings\(name='m',implementation='mlserver'\)": "the module lies elsewhere",
    r"^raw: (pack|unpack)\(RI\(\[(\[1|\],'INT8)": "nested data are packed; a wrong size says which tensor",
    r"^more: (logged\(a='x'\)|mlserver\.register)": METRICS,
    r"^more: env\(.*MLSERVER_MODEL_INPUTS='zzz'": "the variable is named in the error",
}
"""Pattern of a question to the reason why the answers differ. A pattern that meets no difference is an error too."""

NAMES: dict[str, str] = {
    r"^mlserver\.handlers\.(DataPlane|ModelRepositoryHandlers)": "not offered: an ImportError says so",
    r"^mlserver\.metrics\.(MetricsServer|configure_metrics)": "not offered: an ImportError says so",
    r"^mlserver\.metrics\.(REGISTRY|registry\.)": METRICS,
    r"^mlserver\.MLServer": "Headrace is the server; making one says how to start it",
    r"^mlserver\.(settings\.)?(Base|CORS|Model)?(Settings|Parameters)$": "pydantic-settings is not needed",
    r"ModelSettings\.model_validate$": "takes pydantic's options too",
    r"get_model_uri$": "allowed_schemes, as in the original's unreleased version",
    r"\.(encode|decode|encode_output|decode_output|encode_input|decode_input|can_encode)$": "hints apart, alike",
}
"""Pattern of a name of the original that we lack, or whose parameters differ, to the reason."""


def ask(python: str, arguments: list[str], environment: dict[str, str], folder: Path) -> dict[str, dict[str, str]]:
    """The answers of one interpreter, in a folder that is empty and has the same name each time."""
    folder.mkdir()
    done = subprocess.run(
        [python, *arguments], cwd=folder, env=environment, capture_output=True, timeout=SECONDS, check=False
    )
    shutil.rmtree(folder)
    if done.returncode:
        sys.exit(f"{python} failed:\n{done.stderr.decode()}")
    return json.loads(done.stdout)


def compare(
    original: dict[str, str], ours: dict[str, str], declared: dict[str, str]
) -> tuple[list[dict[str, str]], list[dict[str, str]], set[str]]:
    """Differences with a reason, those without, and the patterns that were met."""
    known, unknown, met = [], [], set()
    for question, expected in original.items():
        came = ours.get(question, "missing")
        if came == expected:
            continue
        difference = {"question": question, "original": expected, "ours": came}
        pattern = next((pattern for pattern in declared if re.search(pattern, question)), None)
        if pattern is None:
            unknown.append(difference)
        else:
            met.add(pattern)
            known.append({**difference, "reason": declared[pattern]})
    return known, unknown, met


def main() -> int:
    """Compare, print, and say whether everything was declared."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--original", required=True, help="an interpreter that has mlserver 1.7.1")
    options.add_argument("--ours", default=sys.executable, help="an interpreter that has what headrace needs")
    chosen = options.parse_args()
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MLSERVER_", "PYTHON"))}
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "work"
        original = ask(chosen.original, [str(CORPUS)], clean, folder)
        ours = ask(chosen.ours, ["-c", OURS, str(CORPUS)], {**clean, "PYTHONPATH": str(SOURCE)}, folder)
    known, unknown, met = compare(original["answers"], ours["answers"], DECLARED)
    known_names, unknown_names, met_names = compare(original["names"], ours["names"], NAMES)
    idle = sorted((DECLARED.keys() - met) | (NAMES.keys() - met_names))
    report = {
        "questions": len(original["answers"]),
        "names": len(original["names"]),
        "declared": known + known_names,
        "undeclared": unknown + unknown_names,
        "declared but not met": idle,
    }
    print(json.dumps(report, indent=1))
    return 1 if unknown or unknown_names or idle else 0


if __name__ == "__main__":
    sys.exit(main())
