"""Combiners: what each type makes of its inputs, names and datatypes of the answer, what does not go together, and code of
one's own.
"""

import textwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidRequest, LoadFailed, ModelError, RuntimeFailed, SettingsError, UnsafeArtifact
from headrace.graph.combine import combiner
from headrace.graph.spec import Combine
from headrace.payload import DTYPES, Tensor
from headrace.runtimes.own_code import OwnCode


def texts(*values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


def tensor(values, datatype="FP64", name="y"):
    data = texts(*values) if datatype == "BYTES" else np.asarray(values, DTYPES[datatype])
    return Tensor(name, datatype, data)


def combined(kind, inputs, **spec):
    return combiner(Combine(type=kind, **spec))(inputs)


def one(kind, *columns, datatype="FP64", **spec):
    (answer,) = combined(kind, {f"step-{i}": (tensor(each, datatype),) for i, each in enumerate(columns)}, **spec)
    return answer


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("mean", [2.0, 20.0]), ("median", [1.0, 10.0])],
)
def test_numbers_are_combined_element_by_element(kind, expected):
    """The mean and the median are taken of each element over all inputs, whatever number of them there is."""
    assert one(kind, [1, 10], [1, 10], [4, 40]).data.tolist() == expected


def test_weights_count_and_a_missing_one_is_one():
    """A weighted mean weighs each input by its reference; one that is not named weighs 1, one of 0 not at all."""
    answer = one("weightedMean", [1.0], [5.0], [100.0], weights={"step-0": 3, "step-2": 0})
    assert answer.data.tolist() == [2.0]


@pytest.mark.parametrize("kind", ["mean", "median"])
@pytest.mark.parametrize(
    ("datatype", "expected"),
    [("FP16", "FP16"), ("FP32", "FP32"), ("FP64", "FP64"), ("BF16", "BF16"), ("INT8", "FP64"), ("BOOL", "FP64")],
)
def test_datatypes_of_means(kind, datatype, expected):
    """Floats stay what they are; integers and BOOL become FP64; the data have the dtype of the datatype."""
    answer = one(kind, [1, 0], [1, 1], datatype=datatype)
    assert answer.datatype == expected
    assert answer.data.dtype == DTYPES[expected]


@pytest.mark.parametrize(
    ("datatypes", "expected"),
    [(("FP32", "FP64"), "FP64"), (("FP16", "FP32"), "FP32"), (("FP32", "INT32"), "FP64"), (("BF16", "FP16"), "FP32")],
)
def test_datatypes_of_mixed_means(datatypes, expected):
    """Inputs of different datatypes are answered in the one that holds both."""
    inputs = {each: (tensor([1], each),) for each in datatypes}
    assert combined("mean", inputs)[0].datatype == expected


def test_bf16_is_averaged_by_its_numbers():
    """The mean of BF16 tensors is that of the numbers, rounded to BF16."""
    answer = combined("mean", {"a": (tensor([0x3F80], "BF16"),), "b": (tensor([0x4040], "BF16"),)})[0]  # 1.0 and 3.0
    assert answer.data.tolist() == [0x4000]  # 2.0


@pytest.mark.parametrize("datatype", ["INT64", "FP32", "BOOL", "BYTES", "UINT8"])
def test_the_majority_wins(datatype):
    """Of three votes the value that two gave is answered, in its own datatype."""
    first, second = (b"cat", b"dog") if datatype == "BYTES" else (0, 1)
    answer = one("vote", [first, second], [second, second], [second, first], datatype=datatype)
    assert answer.data.tolist() == [second, second]
    assert answer.datatype == datatype


def test_a_tie_goes_to_the_earlier_input():
    """Where as much weight stands behind two values, the one of the input that comes first is answered."""
    assert one("vote", [3], [7], datatype="INT64").data.tolist() == [3]
    assert one("vote", [7], [3], datatype="INT64").data.tolist() == [7]


def test_weights_decide_a_vote():
    """One input of weight 3 outvotes two of weight 1; fractions that add up to as much are a tie."""
    assert one("vote", [1], [2], [2], datatype="INT64", weights={"step-0": 3}).data.tolist() == [1]
    weights = {"step-0": 0.3, "step-1": 0.1, "step-2": 0.2}
    assert one("vote", [1], [2], [2], datatype="INT64", weights=weights).data.tolist() == [1]


def test_probabilities_have_no_majority():
    """Floats that are no whole numbers are refused by a vote, which says what to use."""
    with pytest.raises(RuntimeFailed, match=r"'step-0'.*mean"):
        one("vote", [0.5], [0.7])


@pytest.mark.parametrize(
    ("columns", "parameters", "expected"),
    [
        (([1, 2], [3, 4]), {}, [[1, 3], [2, 4]]),
        (([[1, 2]], [[3]]), {}, [[1, 2, 3]]),
        (([1], [[2, 3]]), {}, [[1, 2, 3]]),
        (([1, 2], [3]), {"axis": 0}, [1, 2, 3]),
        (([[1], [2]], [[3]]), {"axis": 0}, [[1], [2], [3]]),
    ],
)
def test_concatenation(columns, parameters, expected):
    """Columns stand side by side, one dimension counting as a column; axis 0 puts rows below one another."""
    assert one("concatenate", *columns, parameters=parameters).data.tolist() == expected


def test_tensors_go_together_by_name():
    """Several tensors of each input are combined by name, in the order of the first input."""
    inputs = {
        "a": (tensor([1], name="p"), tensor([10], name="q")),
        "b": (tensor([30], name="q"), tensor([3], name="p")),
    }
    assert [(each.name, each.data.tolist()) for each in combined("mean", inputs)] == [("p", [2.0]), ("q", [20.0])]


def test_single_tensors_go_together_whatever_their_names():
    """One tensor of each input is combined though their names differ; the answer has the first one's name."""
    inputs = {"a": (tensor([1], name="predict"),), "b": (tensor([3], name="output_label"),)}
    assert [(each.name, each.data.tolist()) for each in combined("mean", inputs)] == [("predict", [2.0])]


FAULTS = {
    "names": (
        "mean",
        {"a": (tensor([1], name="p"), tensor([1], name="q")), "b": (tensor([1], name="p"),)},
        "'b' brings",
    ),
    "shapes": ("mean", {"a": (tensor([1]),), "b": (tensor([1, 2]),)}, r"'b' brings .*\[2\].*'a' of \[1\]"),
    "text": ("mean", {"a": (tensor([1]),), "b": (tensor([b"x"], "BYTES"),)}, "'b' brings tensor 'y' of BYTES"),
    "median text": ("median", {"a": (tensor([b"x"], "BYTES"),)}, "'a' brings"),
    "votes": ("vote", {"a": (tensor([1], "INT64"),), "b": (tensor([b"x"], "BYTES"),)}, "'a' INT64, 'b' BYTES"),
    "columns": ("concatenate", {"a": (tensor([[1]]),), "b": (tensor([[1], [2]]),)}, r"'a' \[1, 1\], 'b' \[2, 1\]"),
    "column text": ("concatenate", {"a": (tensor([1]),), "b": (tensor([b"x"], "BYTES"),)}, "'b' BYTES"),
    "nothing": ("mean", {}, "nothing came"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_does_not_go_together(case):
    """Inputs that cannot be combined are RuntimeFailed, and the text names them."""
    kind, inputs, said = FAULTS[case]
    with pytest.raises(RuntimeFailed, match=said):
        combined(kind, inputs)


def test_only_weightless_inputs_came():
    """Where the only inputs that came weigh nothing, there is no mean and no vote."""
    for kind in ("weightedMean", "vote"):
        with pytest.raises(RuntimeFailed, match="weight 0"):
            one(kind, [1], weights={"step-0": 0, "step-1": 1})


@pytest.mark.parametrize(
    "spec",
    [
        Combine(type="weightedMean", weights={"a": -1}),
        Combine(type="vote", weights={"a": float("nan")}),
        Combine(type="weightedMean", weights={"a": 0}),
        Combine(type="concatenate", parameters={"axis": "x"}),
        Combine(type="concatenate", parameters={"along": 1}),
    ],
    ids=["negative", "nan", "all zero", "axis", "unknown"],
)
def test_specifications_that_cannot_be(spec):
    """Weights below zero or adding up to nothing, and parameters that are none, are refused when it is made."""
    with pytest.raises(InvalidRequest):
        combiner(spec)


def test_inputs_are_left_as_they_came():
    """Combining writes to none of the tensors, which may be views of a request."""
    data = np.ones(3)
    data.flags.writeable = False
    for kind in ("mean", "median", "vote", "concatenate", "weightedMean"):
        assert combined(kind, {"a": (Tensor("y", "FP64", data),), "b": (Tensor("y", "FP64", data),)})[0].name == "y"


@given(
    st.lists(st.lists(st.integers(-100, 100), min_size=3, max_size=3), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
    st.sampled_from(["mean", "median"]),
)
def test_the_order_of_inputs_does_not_matter(columns, random, kind):
    """Means and medians are the same in whatever order the inputs stand."""
    inputs = {f"s{at}": (tensor(each, "FP32"),) for at, each in enumerate(columns)}
    shuffled = list(inputs.items())
    random.shuffle(shuffled)
    first, second = combined(kind, inputs)[0].data, combined(kind, dict(shuffled))[0].data
    np.testing.assert_allclose(first, second, rtol=1e-6)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), min_size=1, max_size=7))
def test_a_vote_is_what_most_weight_stands_behind(votes):
    """The answer of a vote is the first of those values that most weight stands behind."""
    inputs = {f"s{at}": (tensor([label], "INT64"),) for at, (label, _) in enumerate(votes)}
    weights = {f"s{at}": float(weight) for at, (_, weight) in enumerate(votes)}
    behind = {label: sum(weight for each, weight in votes if each == label) for label, _ in votes}
    expected = next(label for label, _ in votes if behind[label] == max(behind.values()))
    assert combined("vote", inputs, weights=weights)[0].data.tolist() == [expected]


# -- one's own --


@pytest.fixture
def own(tmp_path):
    """Writes a module and gives the combiner that a reference into it names."""
    made = []

    def make(text, name, **parameters):
        (tmp_path / "mine.py").write_text(textwrap.dedent(text))
        spec = Combine(type="custom", reference=f"mine.py:{name}", parameters=parameters)
        made.append(combiner(spec, base=str(tmp_path), code=OwnCode))
        return made[-1]

    yield make
    for each in made:
        each.close()


INPUTS = {"a": (tensor([1.0, 2.0]),), "b": (tensor([3.0, 5.0]),)}

OWN = {
    "a function": ("def f(inputs, power=1): return sum(x['y'] for x in inputs.values()) ** power", "f", {"power": 2}),
    "an async function": ("async def f(inputs): return (inputs['a']['y'] + inputs['b']['y']) ** 2", "f", {}),
    "a class": (
        """
        class C:
            def __init__(self, power): self.power = power
            def load(self): self.loaded = 0
            def combine(self, inputs):
                return {"y": (inputs["a"]["y"] + inputs["b"]["y"]) ** self.power + self.loaded}
        """,
        "C",
        {"power": 2},
    ),
    "a Seldon component": (
        """
        from seldon_core.user_model import SeldonComponent, SeldonResponse
        class C(SeldonComponent):
            def aggregate(self, features_list, feature_names_list):
                assert feature_names_list == [[], []]
                return SeldonResponse(sum(features_list) ** 2)
        """,
        "C",
        {},
    ),
}


@pytest.mark.parametrize("case", OWN)
async def test_code_of_ones_own(own, case):
    """A function or class of one's own gets arrays by reference and name, and its array is the answer."""
    text, name, parameters = OWN[case]
    (answer,) = await own(text, name, **parameters)(INPUTS)
    assert answer.data.tolist() == [16.0, 49.0]


async def test_what_own_code_raises(own):
    """An exception of one's own code is RuntimeFailed with its reference; one with a status keeps the status."""
    with pytest.raises(RuntimeFailed, match=r"mine.py:f: ValueError: no"):
        await own("def f(inputs): raise ValueError('no')", "f")(INPUTS)
    text = """
        from seldon_core.flask_utils import SeldonMicroserviceException
        def f(inputs): raise SeldonMicroserviceException("never", status_code=402)
    """
    with pytest.raises(ModelError, match="never") as raised:
        await own(text, "f")(INPUTS)
    assert raised.value.status == 402


@pytest.mark.parametrize("answer", ["{}", "{'y': object()}"])
async def test_own_answers_that_are_none(own, answer):
    """Nothing, or what no tensor carries, is RuntimeFailed."""
    with pytest.raises(RuntimeFailed, match=r"mine.py:f"):
        await own(f"def f(inputs): return {answer}", "f")(INPUTS)


@pytest.mark.parametrize(
    ("text", "name", "parameters", "error"),
    [
        ("x = 1", "f", {}, LoadFailed),
        ("x = 1", "x", {}, LoadFailed),
        ("class C: pass", "C", {}, LoadFailed),
        ("import nothing_of_this_name", "f", {}, LoadFailed),
        ("def f(inputs): pass", "f", {"power": 1}, SettingsError),
        ("class C:\n    def __init__(self, power): pass\n    def combine(self, inputs): pass", "C", {}, SettingsError),
        (
            "class C:\n    def load(self): raise OSError('gone')\n    def combine(self, inputs): pass",
            "C",
            {},
            LoadFailed,
        ),
    ],
    ids=["no name", "no callable", "no method", "no import", "unknown parameter", "missing parameter", "load fails"],
)
def test_code_that_cannot_be_loaded(own, text, name, parameters, error):
    """Code that is not there, is no combiner, or takes other parameters is refused when it is made."""
    with pytest.raises(error):
        own(text, name, **parameters)


def test_code_of_nobody_who_is_trusted(tmp_path):
    """Code is refused, not run, where the load policy trusts nobody."""
    (tmp_path / "mine.py").write_text("raise SystemExit")
    with pytest.raises(UnsafeArtifact):
        combiner(Combine(type="custom", reference="mine.py:f"), base=str(tmp_path), code=OwnCode, allowed=())
