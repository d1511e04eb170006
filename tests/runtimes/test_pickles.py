"""Unpickling: what is read without running, what is refused, and that what is allowed loads as its library loads it.

Matrix: plain pickle at each protocol, joblib plain and by each compression, cloudpickle; estimators of many kinds;
attacks by global, by call, by state, by container and by nested stream. Left out: lz4 (not installed).
"""

import bz2
import collections
import concurrent.futures
import copyreg
import functools
import gzip
import io
import lzma
import operator
import os
import pickle
import random
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import cloudpickle
import joblib
import numpy as np
import pytest
import sklearn.base
from numpy.lib.npyio import DataSource
from scipy.sparse import csr_matrix
from scipy.stats import rv_continuous
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.impute import SimpleImputer
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from headrace.errors import LoadFailed, MissingExtra, SettingsError, UnsafeArtifact
from headrace.runtimes import pickles
from headrace.security.load_policy import ALLOWED

POLICY = tuple(ALLOWED)
X, Y = load_iris(return_X_y=True)

ESTIMATORS = {
    "linear": lambda: LogisticRegression(max_iter=300),
    "pipeline": lambda: make_pipeline(SimpleImputer(), StandardScaler(), PCA(2), LogisticRegression()),
    "forest": lambda: RandomForestClassifier(5, random_state=0),
    "tree": DecisionTreeClassifier,
    "boosting": lambda: GradientBoostingClassifier(n_estimators=3),
    "histogram": lambda: HistGradientBoostingClassifier(max_iter=3),
    "sgd": lambda: SGDClassifier(random_state=0),
    "neighbours": lambda: KNeighborsClassifier(algorithm="kd_tree"),
    "ball tree": lambda: KNeighborsClassifier(algorithm="ball_tree"),
    "svc": SVC,
    "mlp": lambda: MLPClassifier(max_iter=2000, random_state=0),
    "selection": lambda: make_pipeline(SelectKBest(f_classif, k=2), LogisticRegression()),
    "search": lambda: GridSearchCV(LogisticRegression(max_iter=300), {"C": [1.0]}, cv=2, scoring="accuracy"),
    "function": lambda: make_pipeline(FunctionTransformer(np.log1p), LogisticRegression(max_iter=300)),
    "columns": lambda: make_pipeline(
        ColumnTransformer([("a", OneHotEncoder(handle_unknown="ignore"), [0]), ("b", "passthrough", [1, 2, 3])]),
        LogisticRegression(max_iter=500),
    ),
    "clusters": lambda: KMeans(3, n_init=1, random_state=0),
    "outliers": lambda: IsolationForest(n_estimators=5, random_state=0),
    "gaussian process": lambda: GaussianProcessRegressor(RBF(), optimizer=None),
}


def _same(left, right, rows=X):
    np.testing.assert_array_equal(left.predict(rows), right.predict(rows))


@pytest.mark.parametrize("kind", ESTIMATORS)
@pytest.mark.parametrize("writer", ["joblib", "pickle"])
def test_estimators_load_under_the_policy(kind, writer, tmp_path):
    """A scikit-learn estimator loads with the allow-list, and predicts what the trusted load predicts."""
    path = tmp_path / "m"
    fitted = ESTIMATORS[kind]().fit(X, Y)
    if writer == "joblib":
        joblib.dump(fitted, path)
    else:
        path.write_bytes(pickle.dumps(fitted))
    _same(pickles.load(path, POLICY), fitted)
    _same(pickles.load(path, None), fitted)


def test_isotonic_regression_loads_under_the_policy(tmp_path):
    """Isotonic regression rebuilds its interpolation with the allow-list."""
    fitted = IsotonicRegression(out_of_bounds="clip").fit(X[:, 0], Y)
    joblib.dump(fitted, tmp_path / "m")
    _same(pickles.load(tmp_path / "m", POLICY), fitted, X[:, 0])


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_loads_under_the_policy(protocol, tmp_path):
    """Plain pickles of protocols 0 to 5 load with the allow-list."""
    fitted = RandomForestClassifier(3, random_state=0).fit(X, np.array(["a", "b", "c"])[Y])
    (tmp_path / "m").write_bytes(pickle.dumps(fitted, protocol=protocol))
    _same(pickles.load(tmp_path / "m", POLICY), fitted)
    assert pickles.inspect(tmp_path / "m").root == "sklearn.ensemble._forest.RandomForestClassifier"


@pytest.mark.parametrize("compress", [("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 1), ("lzma", 1)], ids=lambda c: c[0])
def test_compressed_files_are_read(compress, tmp_path):
    """The joblib library's compressed files are scanned and loaded, trusted or not."""
    fitted = RandomForestClassifier(3, random_state=0).fit(X, Y)
    path = tmp_path / "m"
    joblib.dump(fitted, path, compress=compress)
    contents = pickles.inspect(path)
    assert contents.complete
    assert contents.root == "sklearn.ensemble._forest.RandomForestClassifier"
    _same(pickles.load(path, POLICY), fitted)
    _same(pickles.load(path, None), fitted)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
        np.array(["a", "bc"]),
        np.array(["a", None, 3], dtype=object),
        np.zeros((0, 4)),
        np.array(5.0),
        np.arange(4, dtype=">f8"),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.array(["2020-01-01"], dtype="datetime64[D]"),
        np.arange(10)[::2],
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_come_back_as_joblib_gives_them(array, tmp_path):
    """An array in a joblib file has, read by us, joblib's dtype, shape and values, and can be written to."""
    joblib.dump({"x": array, "after": 1}, tmp_path / "m")
    ours, theirs = pickles.load(tmp_path / "m", POLICY), joblib.load(tmp_path / "m")
    assert ours["after"] == 1
    assert ours["x"].dtype == theirs["x"].dtype
    assert ours["x"].flags.writeable
    np.testing.assert_array_equal(ours["x"], theirs["x"])
    assert pickles.inspect(tmp_path / "m").complete


@pytest.mark.parametrize("allowed", [None, POLICY], ids=["trusted", "restricted"])
def test_losses_under_their_old_module_name_are_found(allowed, tmp_path):
    """A boosted model that names its loss's module `_loss`, as scikit-learn 1.5 to 1.8 write it, loads and predicts."""
    fitted = HistGradientBoostingClassifier(max_iter=3).fit(X, Y)
    content = pickle.dumps(fitted, protocol=2)
    assert b"csklearn._loss._loss\n" in content
    (tmp_path / "m").write_bytes(content.replace(b"csklearn._loss._loss\n", b"c_loss\n"))
    _same(pickles.load(tmp_path / "m", allowed), fitted)


# -- reading without running --


class Bomb:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def test_scan_names_what_would_be_imported_and_runs_nothing(tmp_path):
    """Scanning a hostile pickle names its globals and leaves the machine as it was."""
    mark = tmp_path / "mark"
    (tmp_path / "m").write_bytes(pickle.dumps([Bomb(os.system, f"touch {mark}"), LogisticRegression()]))
    named = pickles.scan(tmp_path / "m")
    assert {"posix.system", "sklearn.linear_model._logistic.LogisticRegression"} <= named
    assert not mark.exists()


def test_scan_goes_past_the_bytes_of_arrays(tmp_path):
    """A global after arrays whose bytes look like opcodes is still named."""
    arrays = [np.frombuffer(bytes(range(256)) * 8, np.uint8), np.array([os.getcwd, "x"], dtype=object)]
    joblib.dump([arrays, StandardScaler()], tmp_path / "m")
    contents = pickles.inspect(tmp_path / "m")
    assert contents.complete
    assert {"posix.getcwd", "sklearn.preprocessing._data.StandardScaler"} <= contents.globals


@pytest.mark.parametrize(
    "content", [b"", b"prose", b"\x80", b"\x80\x05\x95", bytes(100), b"\x1f\x8bjunk", b"x\x9cjunk", b"]"]
)
def test_scan_of_what_is_no_pickle_names_nothing(content, tmp_path):
    """A file that is no pickle names no globals and raises nothing."""
    (tmp_path / "m").write_bytes(content)
    assert pickles.scan(tmp_path / "m") == frozenset()
    assert not pickles.inspect(tmp_path / "m").complete


def test_inspect_tells_the_version_that_wrote_an_estimator(tmp_path):
    """The scikit-learn version of each estimator is known before anything is loaded."""
    joblib.dump(make_pipeline(StandardScaler(), LogisticRegression()), tmp_path / "m")
    versions = pickles.inspect(tmp_path / "m").versions
    assert versions["sklearn.pipeline.Pipeline"] == sklearn.__version__
    assert versions["sklearn.linear_model._logistic.LogisticRegression"] == sklearn.__version__


def test_a_file_written_anew_is_read_anew(tmp_path):
    """What is known of a file is forgotten when its content changes."""
    path = tmp_path / "m"
    path.write_bytes(pickle.dumps(StandardScaler()))
    assert "StandardScaler" in pickles.inspect(path).root
    path.write_bytes(pickle.dumps(LogisticRegression()))
    assert "LogisticRegression" in pickles.inspect(path).root


# -- attacks --


def test_a_refusal_names_global_file_and_remedy(tmp_path):
    """The error names the refused global, the file and what to do."""
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(Bomb(os.system, "true")))
    with pytest.raises(UnsafeArtifact) as caught:
        pickles.load(path, POLICY)
    for part in ("posix.system", "evil.pkl", "load_policy: trusted", "ONNX"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (os.system, ("true",)),
        (subprocess.Popen, ("true",)),
        (subprocess.check_output, ("true",)),
        (exec, ("1",)),
        (eval, ("1",)),
        (getattr, (1, "real")),
        (setattr, (Bomb, "x", 1)),
        (__import__, ("os",)),
        (open, ("/dev/null",)),
        (type, ("X", (), {})),
        (functools.partial, (print, 1)),
        (operator.attrgetter, ("real",)),
        (operator.methodcaller, ("real",)),
        (joblib.load, ("x",)),
        (np.load, ("x",)),
        (np.fromfile, ("x",)),
        (np.memmap, ("x",)),
        (DataSource, ("x",)),
        (rv_continuous, ()),
        (pickle.loads, (b".",)),
        (io.open, ("/dev/null",)),
        (collections.namedtuple, ("X", "a")),  # noqa: PYI024 - the function itself is the attack
        (sklearn.base.clone, (LogisticRegression(),)),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_functions_that_do_things_are_refused(function, args, tmp_path):
    """A pickle that calls a function or constructor outside the list is refused before the call, plain or in joblib."""
    bomb = [LogisticRegression(), {"deep": (Bomb(function, *args),)}]
    (tmp_path / "p").write_bytes(pickle.dumps(bomb))
    joblib.dump(bomb, tmp_path / "j")
    for name in "pj":
        with pytest.raises(UnsafeArtifact):
            pickles.load(tmp_path / name, POLICY)


@pytest.mark.parametrize(
    "name",
    [
        ("sklearn", "os.system"),
        ("sklearn.base", "BaseEstimator.__init__.__globals__"),
        ("sklearn.base", "BaseEstimator.__reduce__"),
        ("sklearn.base", "__builtins__"),
        ("sklearn.base", "warnings"),
        ("sklearn.utils.fixes", "sp_version"),
        ("sklearn.base", "clone"),
        ("sklearn.utils._testing", "TempMemmap"),
        ("sklearn.externals._packaging.version", "Version"),
        ("sklearn.datasets._base", "load_files"),
        ("sklearn.utils.parallel", "Parallel.__call__"),
        ("sklearn.utils.discovery", "import_module"),
        ("sklearn..base", "clone"),
        ("sklearn.base", "defaultdict"),
        ("numpy.f2py", "crackfortran"),
        ("numpy.testing._private.utils", "runstring"),
        ("numpy", "__builtins__"),
        ("numpy", "f2py"),
        ("builtins", "getattr"),
        ("__builtin__", "eval"),
        ("os", "system"),
        ("posix", "system"),
        ("nt", "system"),
        ("sys", "modules"),
        ("_codecs", "decode"),
        ("copyreg", "add_extension"),
    ],
    ids=".".join,
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_names_that_lead_out_are_refused(name, protocol, tmp_path):
    """Naming an attribute of an attribute, an import, a module or a dunder inside an allowed package is refused."""
    module, attribute = name
    if protocol == 2:
        stream = b"\x80\x02c" + f"{module}\n{attribute}\n".encode() + b"."
    else:
        stream = b"\x80\x04" + b"".join(b"\x8c" + bytes([len(t)]) + t.encode() for t in name) + b"\x93."
    (tmp_path / "m").write_bytes(stream)
    with pytest.raises((UnsafeArtifact, MissingExtra)) as caught:
        pickles.load(tmp_path / "m", POLICY)
    assert isinstance(caught.value, UnsafeArtifact)


def _global(module, name):
    return b"c" + f"{module}\n{name}\n".encode()


ATTACKS = {
    # setattr on a class through the slots half of a state: every other model of that class would change
    "state of a class": _global("sklearn.preprocessing._data", "StandardScaler")
    + b"(N}\x8c\x09transform"
    + _global("builtins", "list")
    + b"stb.",
    "state of a function": _global("sklearn.metrics.pairwise", "rbf_kernel") + b"}\x8c\x01xK\x01sb.",
    # an attribute `append` on an instance, then APPEND: a call by name
    "append on an instance": _global("sklearn.preprocessing._data", "StandardScaler")
    + b")\x81}\x8c\x06append"
    + _global("sklearn.preprocessing._data", "MinMaxScaler")
    + b"sbK\x01a.",
    "appends on an instance": _global("sklearn.preprocessing._data", "StandardScaler")
    + b")\x81}\x8c\x06extend"
    + _global("builtins", "list")
    + b"sb(K\x01e.",
    "items on an instance": _global("sklearn.preprocessing._data", "StandardScaler") + b")\x81K\x01K\x02s.",
    "additems on an instance": _global("sklearn.preprocessing._data", "StandardScaler")
    + b")\x81}\x8c\x03add"
    + _global("builtins", "list")
    + b"sb(K\x01\x90.",
    "class of an instance": _global("sklearn.gaussian_process.kernels", "RBF")
    + b")\x81(N}\x8c\x09__class__"
    + _global("builtins", "list")
    + b"stb.",
    "call of a result": _global("builtins", "list") + b")R)R.",
    "call of an instance": _global("sklearn.preprocessing._data", "StandardScaler") + b")\x81)R.",
    "constructor of a class": _global("sklearn.preprocessing._data", "StandardScaler") + b")R.",
    "constructor by OBJ": b"(" + _global("sklearn.preprocessing._data", "StandardScaler") + b"K\x01o.",
    "constructor by INST": b"(K\x01isklearn.preprocessing._data\nStandardScaler\n.",
    "INST of os": b"(\x8c\x04trueios\nsystem\n.",
    "reconstructor of another base": _global("copy_reg", "_reconstructor")
    + _global("builtins", "bytearray")
    + _global("builtins", "bytearray")
    + b"J\xff\xff\xff\x7f\x87R.",
    "codec": _global("_codecs", "encode") + b"\x8c\x01x\x8c\x05rot13\x86R.",
    "persistent id": b"\x8c\x01xQ.",
    "extension": b"\x82\x01.",
    "state that is an instance": _global("sklearn.tree._classes", "DecisionTreeClassifier")
    + b")\x81"
    + _global("sklearn.preprocessing._data", "StandardScaler")
    + b")\x81b.",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_ways_round_the_list_are_refused(attack, tmp_path):
    """A stream of allowed names only, put together to call or change what it may not, is refused."""
    before = dict(vars(StandardScaler))
    (tmp_path / "m").write_bytes(b"\x80\x02" + ATTACKS[attack])
    with pytest.raises(LoadFailed) as caught:
        pickles.load(tmp_path / "m", POLICY)
    assert isinstance(caught.value, UnsafeArtifact), caught.value
    assert dict(vars(StandardScaler)) == before


def test_arrays_of_objects_are_read_under_the_same_rules(tmp_path):
    """A hostile pickle nested in a joblib array of objects is refused."""
    mark = tmp_path / "mark"
    array = np.array([Bomb(os.system, f"touch {mark}")], dtype=object)
    joblib.dump({"x": array}, tmp_path / "m")
    with pytest.raises(UnsafeArtifact, match=r"posix\.system"):
        pickles.load(tmp_path / "m", POLICY)
    assert not mark.exists()


@pytest.mark.parametrize("writer", ["joblib", "plain"])
def test_bytes_are_never_taken_for_objects(writer, tmp_path):
    """A dtype of objects whose flags are cleared by its state stays one of objects, so no bytes become pointers."""

    class Lying:
        def __reduce__(self):
            return np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0)

    if writer == "plain":
        call = Bomb(np.ndarray, (1,), Lying(), bytearray(b"A" * 8))
        (tmp_path / "m").write_bytes(pickle.dumps(call))
    else:
        wrapper = joblib.numpy_pickle.NumpyArrayWrapper(np.ndarray, (1,), "C", Lying(), False)
        content = pickle.dumps(wrapper, protocol=2)
        (tmp_path / "m").write_bytes(content[:-1] + b"\x00" + b"A" * 8 + b".")
    with pytest.raises(LoadFailed):
        pickles.load(tmp_path / "m", POLICY)


@pytest.mark.parametrize(
    "dtype",
    [
        np.dtype(">i4"),
        np.dtype("U5"),
        np.dtype("S3"),
        np.dtype("M8[25s]"),
        np.dtype("m8"),
        np.dtype(">M8[D]"),
        np.dtype([("a", "i4"), ("b", "f8", (2, 3)), ("c", "O")]),
        np.dtype({"names": ["a", "b"], "formats": ["u1", "f8"], "offsets": [4, 8], "itemsize": 32}),
        np.dtype([("a", "u1"), ("b", "f8")], align=True),
        np.dtype("V7"),
        np.dtype(object),
        np.dtype(bool),
    ],
    ids=str,
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_dtypes_come_back_as_they_were(dtype, protocol, tmp_path):
    """Every dtype that numpy pickles is rebuilt equal, wherever the file refers to it."""
    (tmp_path / "m").write_bytes(pickle.dumps([dtype, {"again": dtype}, np.zeros(2, dtype)], protocol))
    first, again, array = pickles.load(tmp_path / "m", POLICY)
    assert first == again["again"] == dtype
    assert array.dtype == pickle.loads((tmp_path / "m").read_bytes())[2].dtype
    assert first is again["again"]


def test_sparse_matrices_are_checked(tmp_path):
    """A sparse matrix whose indices lie outside itself is refused."""
    matrix = csr_matrix(np.eye(3))
    (tmp_path / "m").write_bytes(pickle.dumps(matrix))
    assert (pickles.load(tmp_path / "m", POLICY) != matrix).nnz == 0
    matrix.indices[1] = 1_000_000
    (tmp_path / "m").write_bytes(pickle.dumps(matrix))
    with pytest.raises(LoadFailed, match="cannot be unpickled"):
        pickles.load(tmp_path / "m", POLICY)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zlib.compress])
def test_compression_hides_nothing(compress, tmp_path):
    """A hostile pickle is refused inside any compression."""
    (tmp_path / "m").write_bytes(compress(pickle.dumps(Bomb(os.system, "true"))))
    with pytest.raises(UnsafeArtifact, match=r"posix\.system"):
        pickles.load(tmp_path / "m", POLICY)


def test_an_array_that_claims_more_than_the_file_holds_is_refused(tmp_path):
    """A file that ends within an array fails to load instead of taking the memory it claims."""
    joblib.dump(np.zeros(1000), tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    (tmp_path / "m").write_bytes(content[:-100])
    with pytest.raises(LoadFailed, match="ends within an array"):
        pickles.load(tmp_path / "m", POLICY)


@pytest.mark.parametrize("writer", ["joblib", "plain"])
def test_damaged_files_fail_by_name(writer, tmp_path):
    """A file with some bytes changed loads or fails to load; nothing else comes out, and scanning it never raises."""
    path = tmp_path / "m"
    joblib.dump(StandardScaler().fit(X), path)
    content = path.read_bytes() if writer == "joblib" else pickle.dumps(StandardScaler().fit(X), 2)
    numbers = random.Random(7)
    failed = 0
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(numbers.randint(1, 3)):
            damaged[numbers.randrange(len(damaged))] = numbers.randrange(256)
        path.write_bytes(damaged)
        pickles.inspect(path)
        try:
            pickles.load_with_warnings(path, POLICY)
        except LoadFailed:
            failed += 1
    assert failed > 100


def test_old_wrappers_that_read_other_files_are_refused(tmp_path):
    """The joblib library's wrapper from before 0.10, which unpickles another file by name, is refused."""
    stream = _global("joblib.numpy_pickle_compat", "NDArrayWrapper") + b")\x81."
    (tmp_path / "m").write_bytes(b"\x80\x02" + stream)
    with pytest.raises(UnsafeArtifact):
        pickles.load(tmp_path / "m", POLICY)


@pytest.mark.parametrize("pattern", ["*", "numpy.*", "s*.x", "os.*", "builtins.*", "scipy.stats.*", "joblib.?"])
def test_patterns_that_allow_too_much_are_refused(pattern, tmp_path):
    """A wildcard over the standard library, numpy, scipy or everything is a settings error that names it."""
    (tmp_path / "m").write_bytes(pickle.dumps(1))
    with pytest.raises(SettingsError, match="too wide"):
        pickles.load(tmp_path / "m", (pattern,))


def test_cloudpickle_loads_when_trusted_only(tmp_path):
    """A function shipped by value loads trusted and is refused otherwise."""
    (tmp_path / "m").write_bytes(cloudpickle.dumps(lambda x: x + 1))
    assert pickles.load(tmp_path / "m", None)(1) == 2
    with pytest.raises(UnsafeArtifact):
        pickles.load(tmp_path / "m", POLICY)


# -- failures and warnings --


@pytest.mark.parametrize("allowed", [None, ("xgboostx.core.Booster",)], ids=["trusted", "restricted"])
def test_a_missing_module_is_named(allowed, tmp_path):
    """A pickle of a class whose package is not installed says which module is missing."""
    (tmp_path / "m").write_bytes(b"\x80\x02" + _global("xgboostx.core", "Booster") + b".")
    with pytest.raises(MissingExtra, match="xgboostx"):
        pickles.load(tmp_path / "m", allowed)


def test_a_missing_framework_names_its_extra(tmp_path):
    """Without scikit-learn, the error names the library and the extra to install."""
    path = tmp_path / "m.pkl"
    path.write_bytes(b"\x80\x02" + _global("sklearn.linear_model", "LinearRegression") + b".")
    program = (
        "import sys, pathlib; sys.modules['sklearn'] = None\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'sklearn': raise ModuleNotFoundError(name, name='sklearn')\n"
        "del sys.modules['sklearn']; sys.meta_path.insert(0, Absent())\n"
        "from headrace.runtimes import pickles\n"
        f"pickles.load(pathlib.Path({str(path)!r}), None)"
    )
    env = {"PYTHONPATH": ":".join(entry for entry in sys.path if entry)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, env=env)
    assert "MissingExtra" in done.stderr
    assert "pip install 'headrace[sklearn]'" in done.stderr


def test_a_module_its_library_lost_is_told_apart(tmp_path):
    """A submodule that the installed version does not have is a failure that blames the version, not an extra."""
    (tmp_path / "m").write_bytes(b"\x80\x02" + _global("sklearn.ensemble._gb_losses", "Loss") + b".")
    for allowed in (None, POLICY):
        with pytest.raises(LoadFailed, match="another version") as caught:
            pickles.load(tmp_path / "m", allowed)
        assert not isinstance(caught.value, MissingExtra)


def test_what_a_script_defined_says_where_to_move_it(tmp_path):
    """A function of the script that saved the model cannot be found, and the error says what to do about it."""
    (tmp_path / "m").write_bytes(b"\x80\x02" + _global("__main__", "double_of_the_script") + b".")
    with pytest.raises(LoadFailed, match=r"double_of_the_script.* move it to a module .* cloudpickle"):
        pickles.load(tmp_path / "m", None)


@pytest.mark.parametrize("content", [b"", b"prose", b"\x80\x05."])
def test_what_is_no_pickle_fails_to_load(content, tmp_path):
    """Loading a file that is no pickle is a failure that names the file."""
    (tmp_path / "m").write_bytes(content)
    for allowed in (None, POLICY):
        with pytest.raises(LoadFailed, match="m cannot be unpickled"):
            pickles.load(tmp_path / "m", allowed)


def test_warnings_come_back_as_values(tmp_path):
    """What a class warns of while it is rebuilt is handed to the caller, and `load` warns of it again."""
    fitted = LogisticRegression(max_iter=300).fit(X, Y)
    state = {**fitted.__getstate__(), "_sklearn_version": "1.3.2"}
    bomb = Bomb(None)
    bomb.call = (copyreg._reconstructor, (LogisticRegression, object, None), state)
    path = tmp_path / "m"
    path.write_bytes(pickle.dumps(bomb))
    loaded = pickles.load_with_warnings(path, POLICY)
    assert [(w.estimator_name, w.original_sklearn_version) for w in loaded.warnings] == [
        ("LogisticRegression", "1.3.2")
    ]
    with pytest.warns(sklearn.exceptions.InconsistentVersionWarning):
        pickles.load(path, None)


def test_loading_in_threads_keeps_each_models_warnings(tmp_path):
    """Files loaded at once each get their own warnings, and the process's filters stay as they were."""
    fitted = LogisticRegression(max_iter=300).fit(X, Y)
    for index in range(8):
        bomb = Bomb(None)
        state = {**fitted.__getstate__(), "_sklearn_version": f"1.{index}"}
        bomb.call = (copyreg._reconstructor, (LogisticRegression, object, None), state)
        (tmp_path / f"{index}").write_bytes(pickle.dumps(bomb))
    before = list(warnings.filters)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda index: pickles.load_with_warnings(tmp_path / f"{index}", None), range(8)))
    assert [[w.original_sklearn_version for w in each.warnings] for each in loaded] == [[f"1.{i}"] for i in range(8)]
    assert warnings.filters == before


def test_loading_a_missing_file_fails(tmp_path):
    """A path that is not there fails to load, and is named."""
    with pytest.raises(LoadFailed, match="absent"):
        pickles.load(Path(tmp_path, "absent"), POLICY)
