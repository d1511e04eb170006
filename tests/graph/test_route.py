"""Routers: shares, conditions, bandits that learn, code of one's own; what is kept, restored and refused.

What chance decides is tested with fixed seeds, against bounds that all but one in a million seeds keep.
"""

import json
import math
import random
import textwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidRequest, LoadFailed, RuntimeFailed
from headrace.graph.route import router
from headrace.graph.spec import Branch, Route
from headrace.payload import InferenceRequest, Tensor
from headrace.runtimes.own_code import OwnCode

REQUEST = InferenceRequest(model_name="m", inputs=(Tensor("x", "FP64", np.array([5.0])),), headers={"tier": "gold"})
BANDITS = ["epsilonGreedy", "thompsonSampling"]
ALL = ["weights", "conditions", *BANDITS]


def rows(count):
    return InferenceRequest(model_name="m", inputs=(Tensor("x", "FP64", np.zeros((count, 2))),))


def made(kind, *names, seed=1, **spec):
    weights = {"weight": 1.0} if kind == "weights" else {}
    return router(Route(type=kind, branches=tuple(Branch(name=name, **weights) for name in names), seed=seed, **spec))


def shares(chosen, count=10_000):
    found = {}
    for _ in range(count):
        (branch,) = chosen.choose(REQUEST)
        found[branch] = found.get(branch, 0) + 1 / count
    return found


# -- weights --


def test_weights_are_kept():
    """Over ten thousand requests each branch gets its share, relative to the sum, and one of weight 0 nothing."""
    branches = (Branch(name="a", weight=1), Branch(name="b", weight=0), Branch(name="c", weight=3))
    found = shares(router(Route(branches=branches, seed=3)))
    assert found.keys() == {"a", "c"}
    assert math.isclose(found["a"], 0.25, abs_tol=0.025)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=6), st.integers())
def test_any_weights_choose_a_branch_that_has_some(weights, seed):
    """Whatever the weights, what is chosen is one branch of weight above 0; weights of nothing at all are refused."""
    spec = Route(branches=tuple(Branch(name=str(at), weight=each) for at, each in enumerate(weights)), seed=seed)
    if not sum(weights):
        with pytest.raises(InvalidRequest, match="add up to 0"):
            router(spec)
        return
    chosen = router(spec)
    for _ in range(20):
        (branch,) = chosen.choose(REQUEST)
        assert weights[int(branch)] > 0


@pytest.mark.parametrize("kind", ["weights", *BANDITS])
def test_a_seed_repeats_the_choices(kind):
    """Two routers of one seed choose alike, of another seed otherwise."""
    one, two, other = (made(kind, "a", "b", "c", seed=seed, epsilon=0.5) for seed in (7, 7, 8))
    choices = [[each.choose(REQUEST) for _ in range(100)] for each in (one, two, other)]
    assert choices[0] == choices[1] != choices[2]


# -- conditions --


def test_the_first_condition_that_holds_is_chosen():
    """The first branch whose condition holds is taken; one without a condition always holds; else none is."""
    branches = [
        Branch(name="gold", when='header("tier") == "silver"'),
        Branch(name="big", when="x > 3"),
        Branch(name="json", when="json:inputs.0"),
    ]
    assert router(Route(type="conditions", branches=tuple(branches))).choose(REQUEST) == ("big",)
    assert router(Route(type="conditions", branches=(branches[0], branches[2]))).choose(REQUEST) == ("json",)
    assert router(Route(type="conditions", branches=(branches[0], Branch(name="else")))).choose(REQUEST) == ("else",)
    assert router(Route(type="conditions", branches=(branches[0],))).choose(REQUEST) == ()


def test_a_wrong_condition_names_its_branch():
    """A condition that is none is refused when the router is made, naming branch and position."""
    with pytest.raises(InvalidRequest, match=r"branch 'b': .*position 4"):
        router(Route(type="conditions", branches=(Branch(name="b", when="x >"),)))


# -- bandits --


@pytest.mark.parametrize("kind", BANDITS)
@pytest.mark.parametrize("seed", range(5))
def test_bandits_find_the_best_branch(kind, seed):
    """With rewards of 0.3, 0.5 and 0.7 on average, the best of three branches gets most of the later requests."""
    chosen = made(kind, "a", "b", "c", seed=seed, epsilon=0.2)
    chance, rates = random.Random(seed), {"a": 0.3, "b": 0.7, "c": 0.5}
    later = 0
    for step in range(3000):
        (branch,) = chosen.choose(REQUEST)
        chosen.feedback(branch, float(chance.random() < rates[branch]), REQUEST)
        later += step >= 2000 and branch == "b"
    assert later > 700


def test_epsilon_is_the_share_that_explores():
    """A share epsilon of the requests goes to the other branches, in equal parts."""
    found = shares(made("epsilonGreedy", "a", "b", "c", epsilon=0.3, best_branch="b"))
    assert math.isclose(found["b"], 0.7, abs_tol=0.025)
    assert math.isclose(found["a"], found["c"], abs_tol=0.03)


@pytest.mark.parametrize(("epsilon", "expected"), [(0.0, {"a"}), (1.0, {"b", "c"})])
def test_the_ends_of_epsilon(epsilon, expected):
    """Without exploring only the best is asked, the first until rewards come; with nothing else, never the best."""
    assert shares(made("epsilonGreedy", "a", "b", "c", epsilon=epsilon), 300).keys() == expected


def test_the_best_changes_with_rewards():
    """The branch with the highest rate of success is the best, and gives way when another passes it."""
    chosen = made("epsilonGreedy", "a", "b", epsilon=0.0)
    chosen.feedback("b", 0.5, None)
    assert chosen.choose(REQUEST) == ("b",)
    chosen.feedback("a", 0.6, None)
    assert chosen.choose(REQUEST) == ("a",)


def test_a_reward_counts_for_every_row():
    """A reward for a request of n rows is n trials, of which its share succeeded."""
    chosen = made("thompsonSampling", "a", "b")
    chosen.feedback("a", 0.25, rows(10))
    chosen.feedback("a", 1.0, None)
    assert chosen.state()["branches"]["a"] == {"trials": 11.0, "successes": 3.5}


@pytest.mark.parametrize("kind", BANDITS)
def test_parameters_of_seldons_bandits(kind):
    """Seldon's parameters are taken: their number of branches is checked, and a history kept where it is asked for."""
    chosen = made(
        kind, "0", "1", parameters={"n_branches": "2", "history": "true", "verbose": 1, "branch_names": "a:b"}
    )
    chosen.feedback("1", 1.0, None)
    assert chosen.state()["history"] == [["1", 1.0, 1]]
    for wrong in ({"n_branches": 3}, {"branches": 2}):
        with pytest.raises(InvalidRequest):
            made(kind, "0", "1", parameters=wrong)


# -- feedback and state --


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("reward", [-0.1, 1.1, math.nan, math.inf])
def test_rewards_outside_of_0_to_1_are_refused(kind, reward):
    """A reward that is not between 0 and 1 is InvalidRequest and changes nothing."""
    chosen = made(kind, "a", "b")
    before = chosen.state()
    with pytest.raises(InvalidRequest, match="between 0 and 1"):
        chosen.feedback("a", reward, None)
    assert chosen.state() == before


@pytest.mark.parametrize("kind", ALL)
def test_feedback_to_no_branch(kind):
    """Feedback to a branch that is not there is InvalidRequest and names those that are."""
    with pytest.raises(InvalidRequest, match=r"'c'.*a, b"):
        made(kind, "a", "b").feedback("c", 1.0, None)


@pytest.mark.parametrize("kind", ALL)
@given(data=st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1), st.integers(1, 5)), max_size=20))
def test_state_is_restored(kind, data):
    """What a router has learnt survives as JSON, and another goes on from it as the first would."""
    first, second = (made(kind, "a", "b", "c", parameters={"history": True} if kind in BANDITS else {}) for _ in "12")
    for branch, reward, count in data:
        first.feedback(branch, reward, rows(count))
    second.restore(json.loads(json.dumps(first.state())))
    assert second.state() == first.state()
    assert [first.choose(REQUEST) for _ in range(20)] == [second.choose(REQUEST) for _ in range(20)]


def test_a_state_of_other_branches():
    """Branches that a state does not know start anew, those that are no more are left out."""
    old, new = made("thompsonSampling", "a", "b"), made("thompsonSampling", "b", "c")
    old.feedback("b", 1.0, None)
    new.restore(old.state())
    assert new.state()["branches"] == {"b": {"trials": 1.0, "successes": 1.0}, "c": {"trials": 0.0, "successes": 0.0}}


@pytest.mark.parametrize(
    "state",
    [
        {"type": "weights", "branches": {}},
        {"type": "thompsonSampling"},
        {"type": "thompsonSampling", "branches": {"a": 3}},
        {"type": "thompsonSampling", "branches": {"a": {"trials": 1, "successes": 2}}},
        {"type": "thompsonSampling", "branches": {"a": {"trials": "x", "successes": 2}}},
    ],
)
def test_states_that_are_none(state):
    """What no router of this type gave is refused, and nothing is taken from it."""
    chosen = made("thompsonSampling", "a", "b")
    with pytest.raises(InvalidRequest):
        chosen.restore(state)
    assert chosen.state() == made("thompsonSampling", "a", "b").state()


@pytest.mark.parametrize(
    "spec",
    [
        Route(),
        Route(branches=(Branch(name="a", weight=1), Branch(name="a", weight=1))),
        Route(branches=(Branch(name="", weight=1),)),
        Route(branches=(Branch(name="a", weight=-1), Branch(name="b", weight=2))),
        Route(branches=(Branch(name="a", weight=math.nan),)),
        Route(branches=(Branch(name="a"),)),
        Route(type="epsilonGreedy", branches=(Branch(name="a"),), epsilon=1.5),
        Route(type="epsilonGreedy", branches=(Branch(name="a"),), best_branch="b"),
    ],
    ids=["none", "twice", "nameless", "negative", "nan", "weightless", "epsilon", "best"],
)
def test_specifications_that_cannot_be(spec):
    """A router without branches, with two of one name, or with numbers that cannot be is refused when it is made."""
    with pytest.raises(InvalidRequest):
        router(spec)


# -- one's own --

OWN = """
    from seldon_core.user_model import SeldonComponent

    def by_row(request, least=3):
        return "a" if request.inputs[0].data[0] > least else None

    async def both(request):
        return ["b", 0]

    class Learns:
        def __init__(self, start="a"): self.next = start
        def choose(self, request): return self.next
        def feedback(self, branch, reward, request): self.next = "b" if reward < 0.5 else branch
        def state(self): return {"next": self.next}
        def restore(self, state): self.next = state["next"]

    class Seldon(SeldonComponent):
        def __init__(self, child=1): self.child = int(child)
        def route(self, features, feature_names):
            assert features.shape == (1,) and list(feature_names) == []
            return self.child
        def send_feedback(self, features, feature_names, reward, truth, routing=None):
            self.child = routing if reward > 0.5 else -1

    class Asynchronous:
        def choose(self, request): return "a"
        async def feedback(self, branch, reward, request): pass

    class Neither: pass
"""


@pytest.fixture
def own(tmp_path):
    """The router that a name in the module above is."""
    made = []
    (tmp_path / "mine.py").write_text(textwrap.dedent(OWN))

    def make(name, **parameters):
        branches = (Branch(name="a"), Branch(name="b"))
        spec = Route(type="custom", branches=branches, reference=f"mine.py:{name}", parameters=parameters)
        made.append(router(spec, base=str(tmp_path), code=OwnCode))
        return made[-1]

    yield make
    for each in made:
        each.close()


async def test_functions_route(own):
    """A function chooses a branch by name, several by name or position, or none; parameters are given to it."""
    assert await own("by_row").choose(REQUEST) == ("a",)
    assert await own("by_row", least=7).choose(REQUEST) == ()
    assert await own("both").choose(REQUEST) == ("b", "a")


async def test_a_branch_that_is_not_there(own):
    """A branch that one's own code makes up is RuntimeFailed and names those that are."""
    with pytest.raises(RuntimeFailed, match=r"'z'.*a, b"):
        await own("Learns", start="z").choose(REQUEST)


async def test_a_class_learns_and_is_kept(own):
    """A class of one's own is told of rewards, and its state goes into another of its kind."""
    first, second = own("Learns"), own("Learns")
    assert await first.choose(REQUEST) == ("a",)
    first.feedback("a", 0.0, REQUEST)
    second.restore(first.state())
    assert await second.choose(REQUEST) == ("b",)
    assert own("by_row").state() == {}


@pytest.mark.parametrize(("child", "expected"), [(0, ("a",)), (1, ("b",)), (-1, ("a", "b")), (-2, ())])
async def test_a_seldon_component_routes(own, child, expected):
    """A component's number is the branch at that position; -1 is every branch, -2 none."""
    assert await own("Seldon", child=child).choose(REQUEST) == expected


async def test_a_seldon_component_is_told_of_rewards(own):
    """Feedback reaches `send_feedback` with the position of the branch, and the next route knows of it."""
    chosen = own("Seldon", child=1)
    chosen.feedback("a", 1.0, REQUEST)
    assert await chosen.choose(REQUEST) == ("a",)
    chosen.feedback("a", 0.0, REQUEST)
    assert await chosen.choose(REQUEST) == ("a", "b")


async def test_a_number_of_no_child(own):
    """A number beyond the branches is RuntimeFailed."""
    with pytest.raises(RuntimeFailed, match="chose 2"):
        await own("Seldon", child=2).choose(REQUEST)


@pytest.mark.parametrize("name", ["Asynchronous", "Neither", "nothing"])
def test_code_that_is_no_router(own, name):
    """A class without choose or route, or whose feedback nobody could await, is refused when it is made."""
    with pytest.raises(LoadFailed):
        own(name)
