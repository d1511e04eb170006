"""Routers: which branches of a step a request takes, and what is learnt from rewards. `run` asks one for every request
that reaches such a step, and tells it of feedback.

| type | chooses |
|---|---|
| `weights` | by chance, by the branches' shares |
| `conditions` | the first branch whose condition holds; where none does, no branch |
| `epsilonGreedy` | the best branch so far; of a share `epsilon` of the requests, one of the others by chance |
| `thompsonSampling` | each branch as often as it is likely to be the best |
| `custom` | as a class or function of one's own says |

Bandits. A reward lies in [0, 1]. One for a request of n rows counts as n trials with n * reward successes, as in Seldon
Core v1, but fractions are kept. `epsilonGreedy` is the epsilon-greedy rule of R. S. Sutton and A. G. Barto,
Reinforcement Learning, 2nd ed., MIT Press 2018, section 2.2, in Seldon's form (exploring means one of the other
branches; a branch never tried has success rate 0). `thompsonSampling` is W. R. Thompson, Biometrika 25 (1933) 285-294,
with a uniform Beta(1, 1) prior for each branch; for its regret see S. Agrawal and N. Goyal, COLT 2012, whose rewards in
[0, 1] become successes by chance where they are counted as fractions here.

What has been learnt is `state()`, values of JSON, and `restore(state)` goes on from it: branches that it does not know
start anew, and branches that are no more are left out. Every router but a custom one keeps trials and rewards of its
branches so, whether it learns from them or not.

`parameters` of a bandit may hold Seldon's: `n_branches`, which must be as many as there are; `history: true`, to keep
the last thousand rewards in the state; `branch_names` and `verbose`, without effect.

`custom` (`reference: module:name`, `compat.code`) is a function `choose(request, **parameters)`, or a class with
`choose(self, request)` and, as it likes, `feedback(self, branch, reward, request)`, `state(self)` and
`restore(self, state)`. It gives the name of a branch, its position, several of them, or None for none. `choose` may be
async, `feedback` may not. A class of Seldon Core v1, with `route(X, names) -> int` and `send_feedback`, is taken as it
is: -1 is every branch, -2 none.
"""

from __future__ import annotations

import bisect
import inspect
import itertools
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, Protocol

from headrace.compat import seldon
from headrace.compat.code import Call, Codes, Own, load, translated
from headrace.errors import HeadraceError, InvalidRequest, LoadFailed, RuntimeFailed
from headrace.graph import conditions
from headrace.graph.document import View
from headrace.graph.spec import Branch, Route
from headrace.payload import InferenceRequest

_HISTORY: Final = 1000
"""Rewards that a state keeps."""
_BANDIT: Final = frozenset({"n_branches", "branch_names", "history", "verbose"})


class Router(Protocol):
    """Chooses branches. Used from one event loop."""

    def choose(self, request: InferenceRequest) -> tuple[str, ...] | Awaitable[tuple[str, ...]]:
        """The names of the branches that the request takes; none: it ends here."""

    def feedback(self, branch: str, reward: float, request: InferenceRequest | None) -> None:
        """Learn what a choice was worth.

        Args:
            branch: What was chosen.
            reward: Between 0 and 1.
            request: What was asked, where the caller sent it again; its rows are that many trials.

        Raises:
            InvalidRequest: no such branch, or a reward outside [0, 1].
        """

    def state(self) -> Mapping[str, Any]:
        """What has been learnt, as values of JSON."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that a router of this type gave. Raises InvalidRequest for anything else."""

    def close(self) -> None:
        """Give back what `router` took."""


def router(spec: Route, *, base: str = "", code: Codes | None = None, allowed: tuple[str, ...] | None = None) -> Router:
    """The router that a step says.

    Args:
        spec: What the step says.
        base: The folder of the manifest, for `custom`.
        code: Gives the modules of a folder (`runtimes.own_code.OwnCode`), for `custom`.
        allowed: As of `code.load`.

    Raises:
        InvalidRequest: there is no branch, two have one name, or a weight, condition or parameter is none.
        LoadFailed: of `custom`, as of `code.load`.
    """
    _check_branches(spec.branches)
    match spec.type:
        case "weights":
            return _Weights(spec)
        case "conditions":
            return _Conditions(spec)
        case "epsilonGreedy":
            return _EpsilonGreedy(spec)
        case "thompsonSampling":
            return _Thompson(spec)
        case "custom":
            own = load(spec.reference, base=base, parameters=spec.parameters, code=code, allowed=allowed)
            return _Custom(spec, own)


def _check_branches(branches: Sequence[Branch]) -> None:
    if not branches:
        raise InvalidRequest("a router without branches; expected at least one")
    seen: set[str] = set()
    for branch in branches:
        if not branch.name:
            raise InvalidRequest("a branch without a name")
        if branch.name in seen:
            raise InvalidRequest(f"two branches are named '{branch.name}'")
        seen.add(branch.name)


# -- what all built-in routers keep --


class _Tally:
    """Trials and rewards of each branch."""

    def __init__(self, spec: Route) -> None:
        self._type = spec.type
        self._names = tuple(branch.name for branch in spec.branches)
        self._at = {name: at for at, name in enumerate(self._names)}
        self._one = tuple((name,) for name in self._names)
        self._trials = [0.0] * len(self._names)
        self._successes = [0.0] * len(self._names)
        self._random = random.Random(spec.seed)  # noqa: S311 - chance, not a secret
        self._history: deque[tuple[str, float, int]] | None = None

    def feedback(self, branch: str, reward: float, request: InferenceRequest | None) -> None:
        at = self._at.get(branch)
        if at is None:
            raise _unknown(branch, self._names)
        _check_reward(reward)
        rows = _rows(request)
        self._trials[at] += rows
        self._successes[at] += rows * reward
        if self._history is not None:
            self._history.append((branch, float(reward), rows))
        self._learn()

    def state(self) -> Mapping[str, Any]:
        kept: dict[str, Any] = {
            "type": self._type,
            "branches": {
                name: {"trials": trials, "successes": successes}
                for name, trials, successes in zip(self._names, self._trials, self._successes, strict=True)
            },
        }
        if self._history is not None:
            kept["history"] = [[branch, reward, rows] for branch, reward, rows in self._history]
        return kept

    def restore(self, state: Mapping[str, Any]) -> None:
        if not state:
            return
        branches = state.get("branches")
        if state.get("type") != self._type or not isinstance(branches, Mapping):
            raise InvalidRequest(f"expected the state of a router of type {self._type}, got {state.get('type')!r}")
        read = {}
        for name in self._names:
            kept = branches.get(name, {"trials": 0.0, "successes": 0.0})
            try:
                trials, successes = float(kept["trials"]), float(kept["successes"])
            except (KeyError, TypeError, ValueError) as error:
                raise InvalidRequest(f"state of branch '{name}' is {kept!r}; expected trials and successes") from error
            if not (math.isfinite(trials) and 0 <= successes <= trials + 1e-9):
                raise InvalidRequest(f"state of branch '{name}': {successes} successes of {trials} trials cannot be")
            read[name] = trials, successes
        self._trials = [read[name][0] for name in self._names]
        self._successes = [read[name][1] for name in self._names]
        if self._history is not None:
            for entry in state.get("history", ()):
                branch, reward, rows = entry
                self._history.append((str(branch), float(reward), int(rows)))
        self._learn()

    def close(self) -> None:
        """Nothing was taken."""

    def _learn(self) -> None:
        """Conclude from the tallies what the next choice needs."""

    def _seldon(self, parameters: Mapping[str, Any]) -> None:
        """Take the parameters of Seldon's bandits."""
        for key, value in parameters.items():
            if key not in _BANDIT:
                raise InvalidRequest(f"{self._type} takes the parameters {', '.join(sorted(_BANDIT))}, not {key!r}")
            if key == "n_branches" and _whole(value) != len(self._names):
                raise InvalidRequest(f"n_branches is {value!r}, but there are {len(self._names)} branches")
        if str(parameters.get("history", "")).lower() in {"true", "1"}:
            self._history = deque(maxlen=_HISTORY)


def _whole(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _unknown(branch: str, names: Collection[str]) -> InvalidRequest:
    return InvalidRequest(f"no branch '{branch}'; the branches are {', '.join(names)}")


def _check_reward(reward: float) -> None:
    if not 0.0 <= reward <= 1.0:  # NaN is in no interval
        raise InvalidRequest(f"reward is {reward}; expected a number between 0 and 1")


def _rows(request: InferenceRequest | None) -> int:
    if request is None or not request.inputs:
        return 1
    shape = request.inputs[0].data.shape
    return max(int(shape[0]), 1) if shape else 1


# -- the built-in ones --


class _Weights(_Tally):
    def __init__(self, spec: Route) -> None:
        super().__init__(spec)
        for branch in spec.branches:
            if not math.isfinite(branch.weight) or branch.weight < 0:
                raise InvalidRequest(f"weight of branch '{branch.name}' is {branch.weight}; expected at least 0")
        total = math.fsum(branch.weight for branch in spec.branches)
        if not total > 0:
            raise InvalidRequest(f"the weights of the branches {', '.join(self._names)} add up to 0; expected more")
        taken = [branch for branch in spec.branches if branch.weight > 0]
        sums = [*itertools.accumulate(branch.weight / total for branch in taken)]
        self._ends = sums[:-1]  # the last branch takes what rounding leaves
        self._taken = tuple((branch.name,) for branch in taken)
        self._chance = self._random.random

    def choose(self, request: InferenceRequest) -> tuple[str, ...]:
        return self._taken[bisect.bisect_right(self._ends, self._chance())]


class _Conditions(_Tally):
    def __init__(self, spec: Route) -> None:
        super().__init__(spec)
        self._tests: list[tuple[conditions.Test | None, tuple[str, ...]]] = []
        for branch, one in zip(spec.branches, self._one, strict=True):
            try:
                self._tests.append((conditions.test(branch.when) if branch.when else None, one))
            except InvalidRequest as error:
                raise InvalidRequest(f"branch '{branch.name}': {error}") from error

    def choose(self, request: InferenceRequest) -> tuple[str, ...]:
        view = View(request)
        for holds, one in self._tests:
            if holds is None or holds(view):
                return one
        return ()


class _EpsilonGreedy(_Tally):
    def __init__(self, spec: Route) -> None:
        super().__init__(spec)
        if not 0.0 <= spec.epsilon <= 1.0:
            raise InvalidRequest(f"epsilon is {spec.epsilon}; expected a share between 0 and 1")
        if spec.best_branch and spec.best_branch not in self._at:
            raise _unknown(spec.best_branch, self._names)
        self._seldon(spec.parameters)
        self._epsilon = spec.epsilon
        self._best = self._at.get(spec.best_branch, 0)

    def choose(self, request: InferenceRequest) -> tuple[str, ...]:
        best, others = self._best, len(self._names) - 1
        if not others or self._random.random() >= self._epsilon:
            return self._one[best]
        other = int(self._random.random() * others)
        return self._one[other if other < best else other + 1]

    def _learn(self) -> None:
        if any(self._trials):
            rates = [s / t if t else 0.0 for s, t in zip(self._successes, self._trials, strict=True)]
            self._best = rates.index(max(rates))


class _Thompson(_Tally):
    def __init__(self, spec: Route) -> None:
        super().__init__(spec)
        self._seldon(spec.parameters)
        self._prior: list[tuple[float, float]] = []
        self._learn()

    def choose(self, request: InferenceRequest) -> tuple[str, ...]:
        draw = self._random.betavariate
        drawn = [draw(alpha, beta) for alpha, beta in self._prior]
        return self._one[drawn.index(max(drawn))]

    def _learn(self) -> None:
        self._prior = [
            (1.0 + successes, 1.0 + max(trials - successes, 0.0))
            for successes, trials in zip(self._successes, self._trials, strict=True)
        ]


# -- one's own --


class _Custom:
    def __init__(self, spec: Route, own: Own) -> None:
        self._own = own
        self._names = tuple(branch.name for branch in spec.branches)
        self._component: seldon.Component | None = None
        function: Callable[..., Any]
        if own.offers("choose"):
            function = own.found.choose
        elif own.offers("route") or own.offers("route_raw"):
            self._component = seldon.Component(own.found, own.name)
            function = self._component.route
        elif callable(own.found):
            function = own.found
        else:
            own.close()
            raise LoadFailed(f"{own.name} cannot route: expected a function, or a class with choose or route")
        if inspect.iscoroutinefunction(getattr(own.found, "feedback", None)):
            own.close()
            raise LoadFailed(f"{own.name}: feedback is async; expected a plain method, as nothing waits for it")
        self._call = Call(function, name=own.name, owner=own.found)

    async def choose(self, request: InferenceRequest) -> tuple[str, ...]:
        if self._component is None:
            return self._branches(await self._call(request))
        child = await self._call(request.inputs)
        if child == seldon.ALL:
            return self._names
        return () if child == seldon.STOP else (self._branch(child),)

    def feedback(self, branch: str, reward: float, request: InferenceRequest | None) -> None:
        if branch not in self._names:
            raise _unknown(branch, self._names)
        _check_reward(reward)
        try:
            if self._component is not None:
                inputs = request.inputs if request is not None else ()
                self._component.feedback(inputs, reward, routing=self._names.index(branch))
            elif self._own.offers("feedback"):
                self._own.found.feedback(branch, reward, request)
        except HeadraceError:
            raise
        except Exception as error:
            raise translated(self._own.name, error) from error

    def state(self) -> Mapping[str, Any]:
        if not self._own.offers("state"):
            return {}
        state = self._own.found.state()
        if not isinstance(state, Mapping):
            raise RuntimeFailed(f"{self._own.name}: state gave {type(state).__name__}; expected a mapping")
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        if state and self._own.offers("restore"):
            self._own.found.restore(state)

    def close(self) -> None:
        self._own.close()

    def _branches(self, given: Any) -> tuple[str, ...]:
        if given is None:
            return ()
        if isinstance(given, (list, tuple, set, frozenset)):
            return tuple(self._branch(each) for each in given)
        return (self._branch(given),)

    def _branch(self, given: Any) -> str:
        if isinstance(given, str) and given in self._names:
            return given
        at = _whole(given) if not isinstance(given, (str, bool)) else None
        if at is not None and 0 <= at < len(self._names):
            return self._names[at]
        known = ", ".join(self._names)
        raise RuntimeFailed(f"{self._own.name} chose {given!r}; expected one of {known}, or a position among them")
