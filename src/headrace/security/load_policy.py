"""What a pickled model may name: decided before `load`. The loader asks once per artifact, and passes the answer to the
runtime as `Source.allowed_globals`; `runtimes.pickles` enforces it.

Loading a pickle runs whatever it names, so the question is who could have written the file:

* `auto` (the default) trusts a file that was on this machine all along (`origin="local"`), belongs to the server's user
  or to root, cannot be written by anybody else, and lies in a folder of which the same is true: whoever could have
  changed it could have changed the server. Everything else is restricted; whatever was fetched or uploaded
  (`origin="remote"`) always is.
* `restricted` trusts nothing. `trusted` trusts everything: for an artifact whose origin is assured some other way.

Restricted files may name what `ALLOWED` says. The rest of the rules stand in `runtimes.pickles`.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from headrace.errors import SettingsError, unknown_key

Setting = Literal["auto", "restricted", "trusted"]
Origin = Literal["local", "remote"]

SETTINGS: Final = ("auto", "restricted", "trusted")


def _names(reason: str, *groups: tuple[str, str]) -> dict[str, str]:
    """Rows of the table: each group is a module and the names in it, apart by spaces."""
    return {f"{module}.{name}": reason for module, names in groups for name in names.split()}


ALLOWED: Final[Mapping[str, str]] = MappingProxyType(
    {
        # Not getattr, eval, exec, type, operator.*, functools.partial: each calls or reaches what nobody named.
        **_names(
            "values of the language: building one does nothing else",
            ("builtins", "bool bytearray bytes complex dict float frozenset int list object range set slice str tuple"),
            ("collections", "Counter OrderedDict defaultdict deque"),
            ("datetime", "date datetime timedelta timezone"),
            ("decimal", "Decimal"),
            ("fractions", "Fraction"),
        ),
        **_names("how protocols 0 and 1 rebuild an instance; plain objects only", ("copyreg", "_reconstructor")),
        **_names("how protocols 0 to 2 write bytes; to latin1 and UTF-8 only", ("_codecs", "encode")),
        # numpy, name by name: the package as a whole holds DataSource (deletes folders), memmap (writes files) and
        # testing (executes text).
        **_names(
            "arrays, dtypes and scalars from bytes that are in the file",
            ("numpy", "dtype ndarray matrix bool bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 intc uintc"),
            ("numpy", "longlong ulonglong intp float16 float32 float64 longdouble complex64 complex128"),
            ("numpy", "str_ bytes_ object_ datetime64 timedelta64"),
            ("numpy.core.multiarray", "_reconstruct scalar"),
            ("numpy._core.multiarray", "_reconstruct scalar"),
            ("numpy.core.numeric", "_frombuffer"),
            ("numpy._core.numeric", "_frombuffer"),
            ("numpy.ma.core", "MaskedArray _mareconstruct"),
            ("numpy.ma", "MaskedArray"),
            ("numpy.dtypes", "BoolDType Int8DType Int16DType Int32DType Int64DType"),
            ("numpy.dtypes", "Float16DType Float32DType Float64DType StrDType ObjectDType"),
        ),
        **_names(
            "random states that estimators keep",
            ("numpy.random._pickle", "__randomstate_ctor __generator_ctor __bit_generator_ctor"),
            ("numpy.random._mt19937", "MT19937"),
            ("numpy.random._pcg64", "PCG64"),
            ("numpy.random.mtrand", "RandomState"),
            ("numpy.random._generator", "Generator"),
            ("numpy.random.bit_generator", "SeedSequence __pyx_unpickle_SeedSequence"),
        ),
        **_names(
            "arithmetic that FunctionTransformer applies",
            (
                "numpy",
                "abs absolute add arcsinh arctan ceil cbrt clip cos divide exp exp2 expm1 floor fmax fmin isfinite",
            ),
            ("numpy", "isinf isnan log log10 log1p log2 maximum mean median minimum multiply negative power ravel"),
            ("numpy", "reciprocal rint round sign sin sqrt square subtract sum tan tanh trunc"),
            ("scipy.special._ufuncs", "expit logit"),
        ),
        **_names(
            "matrices and splines inside estimators; scipy.stats is absent because its classes execute text",
            ("scipy.sparse._csr", "csr_matrix csr_array"),
            ("scipy.sparse._csc", "csc_matrix csc_array"),
            ("scipy.sparse._coo", "coo_matrix"),
            ("scipy.interpolate._interpolate", "interp1d"),
            ("scipy.interpolate.interpolate", "interp1d"),
            ("scipy.interpolate._bsplines", "BSpline"),
            ("scipy._lib.array_api_compat.numpy._aliases", "asarray"),
        ),
        "sklearn.*": "estimators: classes only, without their constructors; test, data and vendored modules apart",
        **_names(
            "functions of numbers that estimators keep a reference to, and how its native objects rebuild themselves",
            ("sklearn.neighbors._kd_tree", "newObj"),
            ("sklearn.neighbors._ball_tree", "newObj"),
            ("sklearn.metrics._dist_metrics", "newObj"),
            ("sklearn._loss._loss", "__pyx_unpickle_CyHalfMultinomialLoss"),
            ("sklearn.feature_selection._univariate_selection", "f_classif f_regression chi2 r_regression f_oneway"),
            ("sklearn.feature_selection._mutual_info", "mutual_info_classif mutual_info_regression"),
            ("sklearn.metrics._classification", "accuracy_score balanced_accuracy_score f1_score log_loss"),
            ("sklearn.metrics._classification", "precision_score recall_score"),
            ("sklearn.metrics._regression", "r2_score mean_absolute_error mean_squared_error root_mean_squared_error"),
            ("sklearn.metrics._ranking", "roc_auc_score average_precision_score"),
            ("sklearn.metrics.pairwise", "rbf_kernel linear_kernel"),
            ("sklearn.cluster._kmeans", "_kmeans_single_lloyd _kmeans_single_elkan"),
        ),
        **_names(
            "boosters, which rebuild themselves from their own model text or buffer",
            ("xgboost.sklearn", "XGBClassifier XGBRegressor XGBRanker XGBRFClassifier XGBRFRegressor"),
            ("xgboost.core", "Booster"),
            ("lightgbm.sklearn", "LGBMClassifier LGBMRegressor LGBMRanker LGBMModel"),
            ("lightgbm.basic", "Booster"),
            ("catboost.core", "CatBoost CatBoostClassifier CatBoostRegressor CatBoostRanker"),
        ),
        **_names(
            "column names",
            ("pandas.core.indexes.base", "Index _new_Index"),
            ("pandas.core.indexes.range", "RangeIndex"),
        ),
    }
)
"""Pattern on `module.qualname` to the reason why a file nobody vouches for may name it."""


def decide(
    path: Path, setting: str, *, origin: Origin = "local", extra: tuple[str, ...] = ()
) -> tuple[str, ...] | None:
    """What a pickle at `path` may name; None: anything.

    Args:
        path: The artifact: a file, or a folder of files.
        setting: `auto`, `restricted` or `trusted`.
        origin: `local` for a file that was here all along, `remote` for one fetched or uploaded.
        extra: Further patterns, for a person's own classes (`mycompany.transforms.Winsorizer`).

    Raises:
        SettingsError: the setting is none of the three.
    """
    if setting not in SETTINGS:
        raise unknown_key(setting, SETTINGS, where="load_policy")
    if setting == "trusted":
        return None
    if setting == "auto" and origin == "local" and untrusted_because(path) == "":
        return None
    return (*ALLOWED, *extra)


def untrusted_because(path: Path) -> str:
    """Why `auto` restricts a local file, for the log; empty: it trusts it.

    Raises:
        SettingsError: the path is not there.
    """
    try:
        real = path.resolve(strict=True)
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    inside = [Path(folder, name) for folder, folders, names in os.walk(real) for name in (*folders, *names)]
    linked = [place.resolve() for place in inside if place.is_symlink()]
    for place in (real, *inside, *linked):
        if reason := _open_to_others(place, place.lstat()):
            return reason
    parent = real.parent.stat()
    if parent.st_mode & stat.S_ISVTX:  # whoever may write here may not touch what is another's, and the file is ours
        return ""
    return _open_to_others(real.parent, parent)


def _open_to_others(place: Path, status: os.stat_result) -> str:
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid not in {os.geteuid(), 0}:
        return f"{place} belongs to user {status.st_uid}"
    if stat.S_ISLNK(status.st_mode):
        return ""
    shared = mode & stat.S_IWGRP and not _is_own_group(status.st_gid)
    return f"{place} can be written by others (mode {mode:o})" if shared or mode & stat.S_IWOTH else ""


def _is_own_group(gid: int) -> bool:
    """Whether the group is the server user's own and nobody else's, as most systems give each user."""
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return user.pw_gid == gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}
