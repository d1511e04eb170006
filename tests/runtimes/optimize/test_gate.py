"""The gate finds what it must find: planted defects, broken contracts, engines that answer what the model refuses."""

import time

import msgspec
import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from headrace.runtimes.optimize import gate, graph, rows, session, sklearn_trees, trees
from headrace.runtimes.optimize.engine import Engine, Refused
from headrace.runtimes.optimize.gate import EXACT, SINGLE

ONE = np.array([[0.2, 0.8], [0.6, 0.4]])


# -- judging two answers --


def test_equal_answers_pass():
    """The same arrays give no difference."""
    figures = gate.compare({"predict_proba": ONE}, {"predict_proba": ONE.copy()}, EXACT)
    assert figures.refusal(EXACT) == ""
    assert figures.rows == 2


@pytest.mark.parametrize(
    "engine",
    [
        {"predict_proba": ONE.astype(np.float32)},
        {"predict_proba": ONE[:, :1]},
        {"predict_proba": ONE.ravel()},
        {"scores": ONE},
        {},
        {"predict_proba": ONE, "predict": np.zeros(2)},
    ],
    ids=["datatype", "width", "rank", "name", "nothing", "one more"],
)
def test_names_datatypes_and_shapes_are_part_of_the_answer(engine):
    """An answer in another form is refused, whatever its values."""
    assert gate.compare({"predict_proba": ONE}, engine, SINGLE).refusal(SINGLE)


@pytest.mark.parametrize(("offset", "passes"), [(1e-13, True), (1e-11, False), (np.nan, False), (np.inf, False)])
def test_scores_in_float64_agree_to_the_last_bits(offset, passes):
    """1e-12 is the limit, relative to 1 + |score|."""
    figures = gate.compare({"predict": ONE}, {"predict": ONE + np.array([[0, 0], [0, offset]])}, EXACT)
    assert (figures.refusal(EXACT) == "") is passes


def test_the_same_infinity_and_nan_are_equal():
    """Scores that are not finite agree where they are the same."""
    odd = np.array([np.nan, np.inf, -np.inf])
    assert gate.compare({"predict": odd}, {"predict": odd.copy()}, EXACT).refusal(EXACT) == ""
    assert gate.compare({"predict": odd}, {"predict": odd[::-1].copy()}, EXACT).scores_different == 2


def test_a_label_is_excused_only_at_a_near_tie_and_only_rarely():
    """In float32, one flipped label among 10,000 passes if the native margin is under 1e-5; two do not."""
    labels = np.zeros(10_000, dtype=np.int64)
    proba = np.tile([0.7, 0.3], (10_000, 1))
    proba[:2] = [0.500001, 0.499999]
    native = {"predict": labels, "predict_proba": proba}

    def flipped(*at):
        other = labels.copy()
        other[list(at)] = 1
        return gate.compare(native, {**native, "predict": other}, SINGLE).refusal(SINGLE)

    assert flipped(0) == ""
    assert "excused" in flipped(0, 1)
    assert "labels differ" in flipped(5)


def test_float64_excuses_no_label():
    """The exact tolerance knows no near ties."""
    native = {"predict": np.zeros(2, np.int64), "decision_function": np.full(2, 1e-15)}
    assert gate.compare(native, {**native, "predict": np.array([0, 1])}, EXACT).refusal(EXACT)


# -- putting rows before two engines --


class Sum(Engine):
    """Adds columns; a stand-in whose defects the tests choose."""

    name = "sum"
    outputs = frozenset({"predict"})

    def __init__(self, *, answer=lambda rows: rows.sum(axis=1)):
        self._answer = answer

    def answer(self, rows, outputs):
        total = self._answer(rows)
        return None if total is None else {"predict": total}


FLAT = rows.Terrain(low=np.zeros(3), high=np.ones(3))


def _native(given, _outputs):
    if not np.isfinite(given).all():
        raise ValueError("NaN")
    return {"predict": given.sum(axis=1)}


def _examine(engine, *, native=_native, seconds=30.0):
    return gate.examine(
        native,
        engine,
        FLAT,
        outputs=("predict",),
        tolerance=EXACT,
        count=1200,
        deadline=time.monotonic() + seconds,
    )


def test_an_engine_that_declines_what_the_model_refuses_passes():
    """Declined rows are the native model's, so they cannot differ."""
    proof = _examine(Sum(answer=lambda part: part.sum(axis=1) if np.isfinite(part).all() else None))
    assert proof.datatypes[:2] == ("float64", "float32")
    assert proof.figures.rows >= 1200


def test_an_engine_that_answers_what_the_model_refuses_is_refused():
    """NaN that the native model refuses must not get an answer."""
    with pytest.raises(Refused, match="native refuses what the engine answers"):
        _examine(Sum())


def test_an_engine_that_declines_everything_is_refused():
    """Nothing answered is nothing proven."""
    with pytest.raises(Refused, match="took only"):
        _examine(Sum(answer=lambda _: None))


def test_a_datatype_that_differs_stays_native():
    """An engine that is right in float64 only is proven for float64 only, and says so."""

    def answer(part):
        if not np.isfinite(part).all():
            return None
        return part.sum(axis=1) if part.dtype == np.float64 else part.sum(axis=1) * 2

    proof = _examine(Sum(answer=answer))
    assert "float32" not in proof.datatypes
    assert any("float32 stays native" in remark for remark in proof.remarks)


def test_a_check_without_time_is_refused():
    """A deadline that has passed ends the check with its reason."""
    with pytest.raises(Refused, match="did not end in time"):
        _examine(Sum(), seconds=-1.0)


def test_patience_ends_at_a_quarter_of_the_rows():
    """A slow check is shortened, not dropped, and tells how many rows it saw."""
    native_rows = []

    def slow(given, outputs):
        native_rows.append(len(given))
        return _native(given, outputs)

    engine = Sum(answer=lambda part: part.sum(axis=1) if np.isfinite(part).all() else None)
    proof = gate.examine(
        slow,
        engine,
        FLAT,
        outputs=("predict",),
        tolerance=EXACT,
        count=40_000,
        deadline=time.monotonic() + 30,
        patience=0,
    )
    assert 15_000 <= proof.figures.rows < 45_000
    assert sum(native_rows) >= proof.figures.rows


# -- planted defects --


@pytest.fixture(scope="module")
def boosted(data):
    """A HistGradientBoostingClassifier with missing values, and its trees."""
    model = HistGradientBoostingClassifier(max_iter=25, max_leaf_nodes=31, early_stopping=False)
    model.fit(data.holes, data.two)
    return model, sklearn_trees.read(model).forest


def _plant(forest, kind, at):
    """The ensemble with one defect in inner node `at`."""
    changed = {
        name: getattr(forest, name).copy() for name in ("split", "mode", "yes", "no", "missing_yes", "leaf_weight")
    }
    if kind == "ulp":
        changed["split"][at] = np.nextafter(changed["split"][at], np.inf)
    elif kind == "float32":
        changed["split"][at] = np.float32(changed["split"][at])
    elif kind == "less":
        changed["mode"][at] = trees.LT
    elif kind == "missing":
        changed["missing_yes"][at] ^= 1
    elif kind == "swapped":
        changed["yes"][at], changed["no"][at] = changed["no"][at], changed["yes"][at]
    else:
        leaf = ~changed["yes"][at] if changed["yes"][at] < 0 else at % changed["leaf_weight"].size
        changed["leaf_weight"][leaf] *= 1.01
    return msgspec.structs.replace(forest, **changed)


KINDS = ["ulp", "float32", "less", "missing", "swapped", "leaf"]
FOUND_OF_16 = {"ulp": 10, "float32": 12, "less": 10, "missing": 11, "swapped": 15, "leaf": 15}
"""The rates measured with six aimed rows an inner node, less some slack."""


def _nodes(forest):
    """Sixteen ordinary nodes, past the baseline."""
    usable = np.flatnonzero(np.isfinite(forest.split))[1:]
    return np.random.default_rng(3).choice(usable, 16, replace=False).tolist()


def _file(forest):
    drawing = graph.Graph(forest.width)
    drawing.output("decision_function", drawing.flat(drawing.ensemble(graph.INPUT, forest)), "float64", columns=None)
    return drawing.render()


@pytest.mark.parametrize("kind", KINDS)
def test_the_structure_check_finds_every_defect(boosted, kind):
    """Read back from its file, a defective ensemble never equals the model's."""
    _, forest = boosted
    assert all(graph.differences(_file(_plant(forest, kind, at)), forest) for at in _nodes(forest))


def _found(boosted, kind, given):
    """How many of 16 defects the rows show."""
    model, forest = boosted
    native = {"decision_function": model.decision_function(given)}

    def shown(at):
        engine = session.OnnxEngine(_file(_plant(forest, kind, at)), name="mutant")
        figures = gate.compare(native, engine.answer(given, ("decision_function",)), EXACT)
        return bool(figures.refusal(EXACT))

    return sum(shown(at) for at in _nodes(forest))


@pytest.mark.parametrize("kind", KINDS)
def test_aimed_rows_alone_find_defects_at_the_rates_of_the_study(boosted, kind):
    """Without the structure check, rows aimed at nodes still find most defects of each kind."""
    _, forest = boosted
    given = rows.make(rows.of_forest(forest, missing=True), 6 * forest.nodes, np.random.default_rng(5))
    assert _found(boosted, kind, given) >= FOUND_OF_16[kind]


def test_uniform_rows_do_not_find_an_ulp(boosted):
    """The defect that aimed rows find is invisible to rows spread evenly: so aiming is what finds it."""
    _, forest = boosted
    terrain = rows.of_forest(forest, missing=True)
    assert _found(boosted, "ulp", rows.uniform(terrain, 18_000, np.random.default_rng(5))) == 0


def test_an_intact_export_shows_nothing(boosted):
    """The same rows find no difference in the export itself."""
    model, forest = boosted
    given = rows.make(rows.of_forest(forest, missing=True), 18_000, np.random.default_rng(5))
    engine = session.OnnxEngine(_file(forest), name="intact")
    native = {"decision_function": model.decision_function(given)}
    figures = gate.compare(native, engine.answer(given, ("decision_function",)), EXACT)
    assert figures.refusal(EXACT) == ""
