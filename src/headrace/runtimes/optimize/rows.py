"""Rows that would show a difference between two engines, made from what the model itself knows. Called by the gate.

Uniform rows prove nothing about edges: a threshold off by one unit in the last place is never found by them. So rows
are aimed: into the box of a node's path with the node's own column at t - ulp, t, t + ulp; with every column on some
threshold; with missing values; at the border between classes. No training data is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec
import numpy as np

from headrace.payload import Array
from headrace.runtimes.optimize import trees
from headrace.runtimes.optimize.trees import Ensemble, Floats

SPECIAL: Final = (
    *(np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-35, -1e-35, 1e300, -1e300, 3.5e38, -3.5e38, 16777217.0),
    *(-1.0, -9.0, -99.0, -999.0, -9999.0, 999.0, 9999.0),
)
"""Values at which libraries part: missing, infinite, both zeros, LightGBM's zero band, beyond float32, its last odd
integer; and the numbers that people write for missing ones."""

Move = Callable[[Array, np.random.Generator], Array]


class Terrain(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model's input space."""

    low: Floats
    """Per column, where uniform rows begin."""
    high: Floats
    edges: tuple[Floats, ...] = ()
    """Per column, the sorted values at which the model changes its mind; empty: none are known."""
    forest: Ensemble | None = None
    """Trees, to aim rows at their nodes."""
    missing: bool = False
    """NaN is an ordinary value to the model."""
    border: Move | None = None
    """Moves rows onto a border between classes."""
    samples: Floats | None = None
    """Rows the model keeps (neighbours, support vectors), to aim around."""
    back: Callable[[Array], Array] | None = None
    """From this space to the model's inputs, where numpy steps stand in front; None: it is the same space."""

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.low.size)


def of_forest(forest: Ensemble, *, missing: bool, back: Callable[[Array], Array] | None = None) -> Terrain:
    """The terrain of trees: their splits, and uniform rows a tenth of the range beyond them."""
    edges = trees.edges(forest)
    low = np.array([values[0] if values.size else -1.0 for values in edges])
    high = np.array([values[-1] if values.size else 1.0 for values in edges])
    margin = np.where(high > low, 0.1 * (high - low), 1.0 + np.abs(low) * 0.1)
    return Terrain(low=low - margin, high=high + margin, edges=edges, forest=forest, missing=missing, back=back)


def make(terrain: Terrain, count: int, rng: np.random.Generator) -> Array:
    """About `count` rows of the model's inputs, float64, in random order."""
    parts = list(_parts(terrain, count, rng))
    rows = np.concatenate(parts)
    rng.shuffle(rows)
    if terrain.back is not None:
        rows = terrain.back(rows)
    return np.ascontiguousarray(rows, dtype=np.float64)


def _parts(terrain: Terrain, count: int, rng: np.random.Generator) -> Iterator[Array]:
    aimed: list[Callable[[int], Array]] = []
    forest, border, samples = terrain.forest, terrain.border, terrain.samples
    if forest is not None:
        aimed.append(lambda size: directed(forest, uniform(terrain, size, rng), rng, missing=terrain.missing))
    if any(values.size for values in terrain.edges):
        aimed.append(lambda size: packed(terrain, size, rng))
    if border is not None:
        aimed.append(lambda size: border(uniform(terrain, size, rng), rng))
    if samples is not None:
        aimed.append(lambda size: around(samples, size, rng))
    size = max(1, count // (len(aimed) + 1))
    yield uniform(terrain, size, rng)
    for aim in aimed:
        yield aim(size)


def uniform(terrain: Terrain, count: int, rng: np.random.Generator) -> Array:
    """Anywhere in the usual range."""
    return rng.uniform(terrain.low, terrain.high, size=(count, terrain.width))


def packed(terrain: Terrain, count: int, rng: np.random.Generator) -> Array:
    """Every column on a random edge or beside it; a tenth missing where the model takes that."""
    rows = uniform(terrain, count, rng)
    for column, values in enumerate(terrain.edges):
        if values.size:
            rows[:, column] = beside(rng.choice(values, size=count), rng)
    if terrain.missing:
        rows[rng.random(rows.shape) < 0.1] = np.nan
    return rows


def directed(forest: Ensemble, rows: Array, rng: np.random.Generator, *, missing: bool) -> Array:
    """Rows that reach a node, with its own column at t - ulp, t or t + ulp.

    Args:
        forest: The trees.
        rows: Values for columns that the path leaves open; moved into the path's box elsewhere.
        rng: Chooses nodes and places.
        missing: Make 2 % of the values missing.
    """
    count = len(rows)
    chosen = rng.permutation(np.resize(rng.permutation(forest.nodes), count))
    low, high = _boxes(forest, chosen)
    outside = (rows <= low) | (rows > high)
    with np.errstate(invalid="ignore"):  # where a box is open on a side, its other side or the row itself is taken
        bottom = np.where(np.isfinite(low), low, np.where(np.isfinite(high), high - 1.0 - np.abs(high), rows))
        top = np.where(np.isfinite(high), high, np.where(np.isfinite(low), low + 1.0 + np.abs(low), rows))
    inside = top - rng.random(rows.shape) * (top - bottom)
    rows = np.where(outside, inside, rows)
    every = np.arange(count)
    split = forest.split[chosen].copy()
    sets = chosen[forest.mode[chosen] == trees.MEMBER]
    if sets.size:
        split[forest.mode[chosen] == trees.MEMBER] = rng.integers(-1, 12, size=sets.size)
    column = forest.feature[chosen]
    split = np.where(np.abs(split) < trees.BEYOND, split, rows[every, column])
    rows[every, column] = beside(split, rng)
    if missing:
        rows[rng.random(rows.shape) < 0.02] = np.nan
    return rows


def _boxes(forest: Ensemble, chosen: trees.Integers) -> tuple[Floats, Floats]:
    """Per chosen node, the half-open box (low, high] per column that its path demands."""
    parent, by_yes = _parents(forest)
    low = np.full((chosen.size, forest.width), -np.inf)
    high = np.full((chosen.size, forest.width), np.inf)
    at = np.arange(chosen.size)
    node = chosen
    while True:
        above = parent[node]
        going = above >= 0
        if not going.any():
            low[np.abs(low) >= trees.BEYOND] = -np.inf
            high[np.abs(high) >= trees.BEYOND] = np.inf
            return low, high
        at, node, above = at[going], node[going], above[going]
        column, split, yes = forest.feature[above], forest.split[above], by_yes[node]
        ordered = forest.mode[above] != trees.MEMBER
        top, bottom = ordered & yes, ordered & ~yes
        high[at[top], column[top]] = np.minimum(high[at[top], column[top]], split[top])
        low[at[bottom], column[bottom]] = np.maximum(low[at[bottom], column[bottom]], split[bottom])
        node = above


def _parents(forest: Ensemble) -> tuple[trees.Integers, Array]:
    parent = np.full(forest.nodes, -1)
    by_yes = np.zeros(forest.nodes, dtype=bool)
    numbers = np.arange(forest.nodes)
    for children, side in ((forest.yes, True), (forest.no, False)):
        inner = children >= 0
        parent[children[inner]] = numbers[inner]
        by_yes[children[inner]] = side
    return parent, by_yes


def beside(values: Floats, rng: np.random.Generator) -> Floats:
    """Each value, or a neighbour of it: one unit in the last place away in float64, its float32, one away in that."""
    narrow = np.clip(values, -3e38, 3e38).astype(np.float32)
    kinds = np.stack(
        [
            values,
            np.nextafter(values, -np.inf),
            np.nextafter(values, np.inf),
            narrow.astype(np.float64),
            np.nextafter(narrow, np.float32(-np.inf)).astype(np.float64),
            np.nextafter(narrow, np.float32(np.inf)).astype(np.float64),
        ]
    )
    place: Floats = kinds[rng.integers(len(kinds), size=values.size), np.arange(values.size)]
    return place


def around(samples: Floats, count: int, rng: np.random.Generator) -> Array:
    """Rows the model keeps, halfway between two of them, and with noise."""
    one, other = samples[rng.integers(len(samples), size=(2, count))]
    kind = rng.integers(3, size=(count, 1))
    noise = rng.normal(scale=0.1 * (samples.std(axis=0) + 1e-9), size=one.shape)
    rows: Array = np.where(kind == 0, one, np.where(kind == 1, (one + other) / 2, one + noise))
    return rows


def special(ordinary: Array, rng: np.random.Generator) -> Iterator[Array]:
    """Rows of shape (1, width), each ordinary but for one special value in one column, or in all."""
    width = ordinary.shape[1]
    columns = rng.permutation(width)[:2].tolist()
    for value in SPECIAL:
        for column in [*columns, slice(None)]:
            row = ordinary[rng.integers(len(ordinary))][None, :].copy()
            row[:, column] = value
            yield row


def whole(rows: Array, rng: np.random.Generator) -> Array:
    """Integers near the rows, and some that float32 and float64 cannot hold."""
    usual = np.clip(np.nan_to_num(rows, nan=0.0, posinf=9.0, neginf=-9.0), -(2.0**31), 2.0**31 - 1)
    near = np.rint(usual).astype(np.int64)
    large = np.array([2**24 + 1, 2**31 - 1, -(2**31), 2**53 + 1, 2**62 + 1])
    picked = rng.random(near.shape) < 0.02
    integers: Array = np.where(picked, rng.choice(large, size=near.shape), near)
    return integers
