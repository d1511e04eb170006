"""What is asked of the official runtimes, MLServer's and ours, and which differences are meant.

The models are those of `runtimes_models.py`; each is asked everything that its kind can be asked, by name and in every
content type, and some things that it cannot.
"""

from __future__ import annotations

from corpus import JSON, Meant, get, post, tensor, v2

IRIS = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3], [6.0, 2.2, 4.0, 1.0]]
CANCER = [[17.99, 10.38, 122.8, 1001.0, 0.1184], [11.42, 20.38, 77.58, 386.1, 0.1425]]
DIABETES = [[0.038, 0.05, 0.061, 0.021], [-0.001, -0.044, -0.051, -0.026], [0.085, 0.05, 0.044, -0.005]]
COLUMNS = ["a", "b", "c", "d"]
OUTPUTS = ("predict", "predict_proba", "transform", "decision_function", "nonsense")

MATRIX = {
    "iris": IRIS, "iris-proba": IRIS, "iris-np": IRIS, "named": IRIS, "regressor": DIABETES, "targets": [[5.1, 3.5], [6.7, 3.0]],
    "multilabel": IRIS, "unsure": IRIS, "scaler": IRIS, "scaler-transform": IRIS, "clusters": IRIS, "pca": IRIS,
    "pca-transform": IRIS, "outliers": IRIS,
    "xgb-regressor": DIABETES, "xgb-classes": IRIS, "xgb-classes-ubj": IRIS, "xgb-binary": CANCER,
    "xgb-booster": DIABETES, "xgb-booster-logistic": CANCER, "xgb-booster-softprob": IRIS, "xgb-linear": DIABETES,
    "lgb-regression": DIABETES, "lgb-binary": CANCER, "lgb-classes": IRIS,
    "cat-classes": IRIS, "cat-binary": CANCER, "cat-named": IRIS, "cat-regressor": DIABETES,
    "mlflow-tensor": IRIS, "mlflow-bare": IRIS, "mlflow-params": IRIS, "mlflow-named": IRIS,
}  # fmt: skip
"""Models of one matrix: some rows of theirs."""
FRAMED = ("framed", "framed-pd", "scaler-frame", "frame-transform", "xgb-framed", "lgb-framed", "cat-framed",
          "mlflow-target", "mlflow-columns", "mlflow-bare-frame", "mlflow-inputs-alone", "mlflow-series", "mlflow-xgboost")  # fmt: skip
"""Models of four columns of numbers."""
MIXED = ("mixed", "columns-frame", "cat-mixed", "mlflow-mixed", "mlflow-frame", "mlflow-frame-text")
"""Models of two columns of numbers and one of text."""
PD, NP = {"content_type": "pd"}, {"content_type": "np"}


def ask(model, name, *tensors, **rest):
    return post(f"{model}: {name}", f"/v2/models/{model}/infer", v2(*tensors, **rest), JSON)


def matrix(rows, datatype="FP64", **rest):
    if datatype.startswith("INT"):
        rows = [[round(number) for number in row] for row in rows]
    return tensor([number for row in rows for number in row], (len(rows), len(rows[0])), datatype, **rest)


def columns(rows, names=COLUMNS, datatype="FP64", rank=1, **rest):
    """One tensor for each column."""
    shape = (len(rows), 1) if rank == 2 else (len(rows),)
    return [tensor([row[at] for row in rows], shape, datatype, name, **rest) for at, name in enumerate(names)]


def mixed(rows=3, rank=1, of_text=None, **rest):
    shape = (rows, 1) if rank == 2 else (rows,)
    text = {"parameters": {"content_type": of_text}} if of_text else {}
    return [
        tensor([5.1, 6.7, 6.0][:rows], shape, "FP64", "size", **rest),
        tensor(["red", "blue", "green"][:rows], shape, "BYTES", "colour", **text),
        tensor([1.4, 5.2, 4.0][:rows], shape, "FP64", "weight", **rest),
    ]


def types(shape=(1,), told=False):
    """A column of each of MLflow's types."""
    given = (
        ("flag", "BOOL", True, ""), ("small", "INT32", 1, ""), ("count", "INT64", 2, ""), ("weight", "FP32", 0.5, ""),
        ("word", "BYTES", "wörd", "str"), ("blob", "BYTES", "YmxvYg==", "base64"),
        ("when", "BYTES", "2026-03-01T00:00:00", "datetime"), ("note", "BYTES", "n", "str"),
    )  # fmt: skip
    return [
        tensor([value], shape, datatype, name, **({"parameters": {"content_type": how}} if told and how else {}))
        for name, datatype, value, how in given
    ]


def outputs(model, *tensors, **rest):
    """Each output that a runtime may have, alone and together."""
    for name in (*OUTPUTS, "output-0", "output-1"):
        yield ask(model, f"output {name}", *tensors, outputs=[{"name": name}], **rest)
    both = [{"name": "predict"}, {"name": "predict_proba"}]
    yield ask(model, "two outputs", *tensors, outputs=both, **rest)
    yield ask(model, "two outputs, turned", *tensors, outputs=both[::-1], **rest)
    yield ask(model, "an output twice", *tensors, outputs=[both[0], both[0]], **rest)
    yield ask(model, "no outputs", *tensors, outputs=[], **rest)
    yield ask(model, "an output with a content type", *tensors, outputs=[{"name": "predict", "parameters": NP}], **rest)


def of_matrix(model, rows):
    """A model of one matrix."""
    for datatype in ("FP32", "FP64", "INT64", "INT32"):
        yield ask(model, f"one row, {datatype}", matrix(rows[:1], datatype))
        yield ask(model, f"rows, {datatype}", matrix(rows, datatype))
    yield ask(model, "nested rows", tensor(rows, (len(rows), len(rows[0])), "FP64"))
    yield ask(model, "another name", matrix(rows, name="whatever"))
    yield ask(model, "an id and parameters", matrix(rows), id="abc", parameters={"word": "w"})
    yield from outputs(model, matrix(rows))
    yield ask(model, "input as np", matrix(rows, parameters=NP))
    yield ask(model, "request as np", matrix(rows), parameters=NP)
    yield ask(model, "input as an unknown content type", matrix(rows, parameters={"content_type": "nonsense"}))
    yield ask(model, "request as an unknown content type", matrix(rows), parameters={"content_type": "nonsense"})
    yield ask(model, "columns", *columns(rows, COLUMNS[: len(rows[0])]) if len(rows[0]) <= len(COLUMNS) else ())
    names = [f"f{at}" for at in range(len(rows[0]))]
    yield ask(model, "columns as pd", *columns(rows, names), parameters=PD)
    yield ask(model, "columns [n,1] as pd", *columns(rows, names, rank=2), parameters=PD)
    yield ask(model, "columns of INT64 as pd", *columns([list(map(round, row)) for row in rows], names, "INT64"), parameters=PD)  # fmt: skip
    yield ask(model, "matrix as pd", matrix(rows), parameters=PD)
    yield ask(model, "columns as np", *columns(rows, names), parameters=NP)
    yield ask(model, "too narrow", matrix([row[:-1] for row in rows]))
    yield ask(model, "too wide", matrix([[*row, 1.0] for row in rows]))
    yield ask(model, "too narrow as pd", *columns([row[:-1] for row in rows], names[:-1]), parameters=PD)
    yield ask(model, "rank 1", tensor(rows[0], (len(rows[0]),), "FP64"))
    yield ask(model, "rank 3", tensor(rows[0], (1, 1, len(rows[0])), "FP64"))
    yield ask(model, "an input too many", matrix(rows), matrix(rows, name="more"))
    yield ask(model, "no inputs")
    yield ask(model, "no rows", tensor([], (0, len(rows[0])), "FP64"))
    yield ask(model, "null for a number", matrix([[None, *rows[0][1:]]]))
    yield ask(model, "text", tensor(["a"] * len(rows[0]), (1, len(rows[0])), "BYTES"))
    yield ask(model, "numbers as text", tensor([str(each) for each in rows[0]], (1, len(rows[0])), "BYTES"))
    yield ask(model, "truth", tensor([True] * len(rows[0]), (1, len(rows[0])), "BOOL"))


def of_frame(model):
    """A model of four named columns of numbers."""
    for rank in (1, 2):
        shape = "[n,1]" if rank == 2 else "[n]"
        yield ask(model, f"columns {shape} as pd", *columns(IRIS, rank=rank), parameters=PD)
        yield ask(model, f"one row of columns {shape} as pd", *columns(IRIS[:1], rank=rank), parameters=PD)
        yield ask(model, f"columns {shape}", *columns(IRIS, rank=rank))
    yield ask(model, "columns of FP32 as pd", *columns(IRIS, datatype="FP32"), parameters=PD)
    yield ask(model, "columns of INT64 as pd", *columns([list(map(round, row)) for row in IRIS], datatype="INT64"), parameters=PD)  # fmt: skip
    yield ask(model, "columns, each np, as pd", *columns(IRIS, parameters=NP), parameters=PD)
    yield ask(model, "columns, each np", *columns(IRIS, parameters=NP))
    yield ask(model, "columns in another order as pd", *columns(IRIS)[::-1], parameters=PD)
    yield ask(model, "other names as pd", *columns(IRIS, ["w", "x", "y", "z"]), parameters=PD)
    yield ask(model, "a column too few as pd", *columns(IRIS)[:3], parameters=PD)
    yield ask(model, "a column too many as pd", *columns(IRIS), tensor([1.0] * 3, (3,), "FP64", "e"), parameters=PD)
    yield ask(
        model, "columns of two lengths as pd", *columns(IRIS)[:3], tensor([1.0], (1,), "FP64", "d"), parameters=PD
    )
    yield ask(
        model, "text for a number as pd", *columns(IRIS)[:3], tensor(["x"] * 3, (3,), "BYTES", "d"), parameters=PD
    )
    yield ask(model, "null as pd", *columns([[None, *IRIS[0][1:]]]), parameters=PD)
    yield ask(model, "matrix as pd", matrix(IRIS), parameters=PD)
    yield ask(model, "matrix", matrix(IRIS))
    yield ask(model, "matrix of FP32", matrix(IRIS, "FP32"))
    yield ask(model, "matrix as np", matrix(IRIS), parameters=NP)
    yield ask(model, "matrix too wide", matrix([[*row, 1.0] for row in IRIS]))
    yield ask(model, "no inputs", parameters=PD)
    yield from outputs(model, *columns(IRIS), parameters=PD)


def of_mixed(model):
    """A model of columns of numbers and of text."""
    for rank in (1, 2):
        shape = "[n,1]" if rank == 2 else "[n]"
        yield ask(model, f"columns {shape} as pd", *mixed(rank=rank), parameters=PD)
        yield ask(model, f"columns {shape}, text as str, as pd", *mixed(rank=rank, of_text="str"), parameters=PD)
        yield ask(model, f"one row of columns {shape} as pd", *mixed(1, rank=rank), parameters=PD)
        yield ask(model, f"columns {shape}, text as str", *mixed(rank=rank, of_text="str"))
        yield ask(model, f"columns {shape}", *mixed(rank=rank))
    yield ask(model, "numbers of FP32 as pd", *[{**each, "datatype": each["datatype"].replace("64", "32")} for each in mixed()], parameters=PD)  # fmt: skip
    yield ask(model, "text as np, as pd", *mixed(of_text="np"), parameters=PD)
    yield ask(model, "text as base64, as pd", mixed()[0], tensor(["cmVk"] * 3, (3,), "BYTES", "colour", parameters={"content_type": "base64"}), mixed()[2], parameters=PD)  # fmt: skip
    yield ask(model, "in another order as pd", *mixed()[::-1], parameters=PD)
    yield ask(model, "an unknown category as pd", mixed(1)[0], tensor(["mauve"], (1,), "BYTES", "colour"), mixed(1)[2], parameters=PD)  # fmt: skip
    yield ask(model, "a column too few as pd", *mixed()[:2], parameters=PD)
    yield ask(model, "a column too many as pd", *mixed(), tensor([1.0] * 3, (3,), "FP64", "more"), parameters=PD)
    yield ask(model, "a number for text as pd", mixed(1)[0], tensor([1], (1,), "INT64", "colour"), mixed(1)[2], parameters=PD)  # fmt: skip
    yield ask(model, "text for a number as pd", tensor(["x"], (1,), "BYTES", "size"), *mixed(1)[1:], parameters=PD)
    yield from outputs(model, *mixed(), parameters=PD)


def one_by_one():
    """Models of their own kind."""
    words = tensor(["good", "a bad one"], (2,), "BYTES")
    text = {"parameters": {"content_type": "str"}}
    for model in ("texts", "mlflow-words"):
        name = "word" if model == "mlflow-words" else "input-0"
        for rank, shape in ((1, (2,)), (2, (2, 1))):
            given = {**words, "shape": shape, "name": name}
            yield ask(model, f"text, rank {rank}", given)
            yield ask(model, f"text as str, rank {rank}", {**given, **text})
            yield ask(model, f"text in a request as str, rank {rank}", given, **text)
            yield ask(model, f"text as pd, rank {rank}", given, parameters=PD)
            yield ask(model, f"text as np, rank {rank}", {**given, "parameters": NP})
        yield ask(model, "one text as str", tensor(["good"], (1,), "BYTES", name, **text))
        yield ask(model, "beyond ASCII as str", tensor(["gööd 好"], (1,), "BYTES", name, **text))
        yield from outputs(model, {**words, "name": name, **text})
    colours = tensor(["red", "mauve"], (2, 1), "BYTES")
    yield ask("one-hot", "text", colours, outputs=[{"name": "transform"}])
    yield ask("one-hot", "text as str", {**colours, **text}, outputs=[{"name": "transform"}])
    yield ask("one-hot", "text as np", {**colours, "parameters": NP}, outputs=[{"name": "transform"}])
    yield ask("one-hot", "text as pd", colours, outputs=[{"name": "transform"}], parameters=PD)
    yield ask("one-hot", "text, default", colours)
    yield ask("wrong-fn", "one row", matrix(IRIS[:1]))
    for name in ("x", "input-0"):
        given = matrix(IRIS, name=name)
        yield ask("mlflow-dict", f"{name}", given)
        yield ask("mlflow-dict", f"{name} as np", {**given, "parameters": NP})
        yield ask("mlflow-dict", f"{name}, request as np", given, parameters=NP)
        yield ask("mlflow-dict", f"{name}, request as dict", given, parameters={"content_type": "dict"})
        yield ask("mlflow-dict", f"{name}, FP32", {**given, "datatype": "FP32"})
    yield ask("mlflow-dict", "too wide", matrix([[*row, 1.0] for row in IRIS], name="x"))
    yield ask("mlflow-dict", "an input too many", matrix(IRIS, name="x"), matrix(IRIS, name="y"))
    yield from outputs("mlflow-dict", matrix(IRIS, name="x"))
    yield ask("mlflow-dict", "output total", matrix(IRIS, name="x"), outputs=[{"name": "total"}])
    for value in ({"factor": 3.0}, {"factor": 3}, {"word": "longer"}, {"factor": "x"}, {"other": 1}, {"factor": 3.0, "content_type": "np"}):  # fmt: skip
        yield ask("mlflow-params", f"params {value}", matrix(IRIS), parameters=value)
    for content_type in ("pd", ""):
        table = {"content_type": "pd"} if content_type else {}
        yield ask("mlflow-types", f"a row {content_type}", *types(), parameters=table)
        yield ask(
            "mlflow-types", f"a row, each by its content type, {content_type}", *types(told=True), parameters=table
        )
        yield ask("mlflow-types", f"a row [1,1] {content_type}", *types((1, 1)), parameters=table)
        wide = [{**each, "datatype": "INT64"} if each["name"] == "small" else each for each in types(told=True)]
        yield ask("mlflow-types", f"INT64 for INT32 {content_type}", *wide, parameters=table)
        part = [each for each in types(told=True) if each["name"] != "note"]
        yield ask("mlflow-types", f"without what is optional {content_type}", *part, parameters=table)
        yield ask("mlflow-types", f"a column too few {content_type}", *types(told=True)[1:], parameters=table)
    moments = ["2026-03-01T00:00:00", "2026-03-02T10:00:00"]
    for shape in ((2,), (2, 1)):
        for how in ({}, {"parameters": {"content_type": "datetime"}}):
            given = tensor(moments, shape, "BYTES", "when", **how)
            yield ask("mlflow-times", f"{len(shape)}, {how}", given)
            yield ask("mlflow-times", f"{len(shape)}, {how}, as pd", given, parameters=PD)


def questions():
    """Every question: loading, metadata, inference."""
    models = {
        *MATRIX,
        *FRAMED,
        *MIXED,
        "texts",
        "mlflow-words",
        "one-hot",
        "wrong-fn",
        "mlflow-dict",
        "mlflow-times",
        "mlflow-types",
    }
    for model in sorted(models):
        yield post(f"{model}: load", f"/v2/repository/models/{model}/load", b"{}")
        yield get(f"{model}: ready", f"/v2/models/{model}/ready")
        yield get(f"{model}: metadata", f"/v2/models/{model}")
    for model, rows in MATRIX.items():
        yield from of_matrix(model, rows)
    for model in FRAMED:
        yield from of_frame(model)
    for model in MIXED:
        yield from of_mixed(model)
    yield from one_by_one()


QUESTIONS = list(questions())


def meant(questions, differences, reason):
    return Meant("MLServer", differences, reason, questions)


MORE = r"status: 200 / (400|404|500)"
"""Ours answers where MLServer does not."""
LESS = r"status: 400 / 200"
"""Ours refuses what MLServer answers."""
ANY = r"[^:]+: .*"

MEANT = [
    meant(
        ".*: (load|ready)", "body: absent / none", "The protocol's small body; MLServer answers by the status alone."
    ),
    meant(
        "(?!mlflow).*: metadata",
        r"\.(platform|versions|inputs|outputs|properties).*",
        "Read from the model itself; MLServer knows what somebody wrote down.",
    ),
    meant(
        "mlflow.*: metadata",
        r"\.(platform|versions|properties).*",
        "The platform, and what is known of the engine, are told; MLServer leaves them empty.",
    ),
    meant(
        "mlflow-bare(-frame)?: metadata",
        r"\.inputs.*",
        "Without a signature, the inputs are those that the model itself knows.",
    ),
    meant(
        ".*",
        r"status: 400 / 500|body: \{error\} / a text|type: application/json / text/plain",
        "What the model cannot take is the caller's mistake, and the answer says which: 400; MLServer answers 500.",
    ),
    # What MLServer's runtimes cannot serve.
    meant(
        "mlflow-inputs-alone: .*",
        r"status: (200|400) / (404|500)",
        "A signature without outputs is served; MLServer's runtime fails to load the model.",
    ),
    meant(
        "(scaler|scaler-frame|columns-frame|pca|one-hot): .*",
        MORE,
        "What cannot predict, transforms when nothing is asked for; MLServer asks it for predict, and answers 500. Sparse "
        "results are answered as arrays.",
    ),
    meant(
        "cat-regressor: .*", MORE, "Regressors of CatBoost are served; MLServer takes every file for a classifier's."
    ),
    meant(
        "mlflow-bare(-frame)?: .*",
        MORE,
        "A model without a signature takes an array, or a table by its own columns; MLServer needs a content type, or "
        "hands the request itself to the model.",
    ),
    meant(
        "mlflow-(series|frame-text): .*",
        MORE,
        "A Series, and text in a table of pandas 3, are answered; MLServer finds no codec for them.",
    ),
    meant(
        "wrong-fn: .*",
        ANY,
        "A `predict_fn` that the model does not have fails the load, with the known ones; MLServer fails each request.",
    ),
    # Inputs.
    meant(
        ".*: (columns.*|matrix( of FP32| as np)?)",
        MORE,
        "Columns need no content type, whichever way they come: one tensor each, or all as one. They go by their names, in "
        "any order.",
    ),
    meant("mlflow-dict: input-0.*", MORE, "The only input there is may have any name, as in every other runtime."),
    meant(".*: matrix as pd", MORE, "One matrix is a table of as many columns; MLServer makes one column of it."),
    meant(
        "xgb-linear: matrix as pd",
        ANY,
        "MLServer makes one column of a matrix, and `gblinear` answers rows of any width.",
    ),
    meant(
        "xgb-linear: too narrow.*",
        LESS,
        "The width is checked; `gblinear` itself answers too few features with numbers.",
    ),
    meant(
        "(clusters|mlflow-.*): (.*(FP32|INT32|INT64).*|truth)",
        MORE,
        "Numbers of another width are turned into the model's, where that loses nothing but precision.",
    ),
    meant(
        "mlflow-.*: request as an unknown content type",
        MORE,
        "A content type that nobody knows is as none.",
    ),
    meant(
        "(texts|mlflow-words): text.*",
        MORE,
        "Text is taken as [rows] and as [rows, 1], by whatever content type; MLServer hands over an array of two "
        "dimensions, or a bare list where the signature wants a table.",
    ),
    meant(
        "texts: text as pd.*",
        ANY,
        "Each row of the one column is a text; MLServer's table is walked by its columns, one answer for all rows.",
    ),
    meant(".*: text as base64, as pd", MORE, "Base64 of a text column is decoded; MLServer hands the model bytes."),
    meant(
        "lgb-framed: (columns in another order as pd|other names as pd)",
        r"\.outputs\[0\]\.data: .*|" + LESS,
        "Columns go by their names; LightGBM goes by their order, so MLServer's answer is that of other numbers.",
    ),
    meant(
        ".*: columns of two lengths as pd",
        LESS,
        "Columns of a table are equally long; MLServer fills the shorter ones with missing values.",
    ),
    meant(
        ".*: numbers as text",
        LESS,
        "Text is no number: the datatype says so, and a model of numbers refuses it; numpy would convert it.",
    ),
    meant(
        "cat-.*: (too wide|rank 1|matrix too wide)",
        LESS,
        "A matrix has as many columns as the model; CatBoost takes what it needs of a wider one, and one row for a table.",
    ),
    meant(
        "mlflow-params: params .*other.*",
        LESS,
        "A param that the model does not have is refused with those that it has; MLflow drops it with a line in a log.",
    ),
    # Outputs.
    meant(".*: output decision_function", MORE, "Each method of the estimator is an output."),
    meant(
        ".*: an output twice", LESS, "An output is asked for once; MLServer gives it twice, or ignores what is asked."
    ),
    meant(
        "(lgb|cat)-.*: (output|two outputs).*",
        LESS + "|" + r"\.outputs.*",
        "Outputs asked for are those given, probabilities among them; MLServer's runtime gives `predict` whatever is asked.",
    ),
    meant(
        "mlflow-.*: (output|two outputs|an output with).*",
        LESS + "|" + r"\.outputs.*",
        "Outputs asked for are those given, and an unknown one is an error; MLServer's runtime gives all, whatever is asked.",
    ),
    meant(
        "mlflow-named: .*",
        r"\.parameters\.content_type: dict / np|\.outputs\[0\]\.name: x / output-1",
        "The one output has the name that the signature gives it; MLServer drops it where code answers with an array.",
    ),
    meant(
        ".*: no rows",
        r"\.outputs\[0\]\.shape: \[0, \d\] / \[0, 1\]|" + MORE,
        "No rows of three probabilities are [0,3].",
    ),
]
"""Every kind of difference. The first one that fits a line is its reason."""
