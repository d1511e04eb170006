"""One answer of many of which some may be anything: robust aggregation. `combine` calls it for a pipeline's step; they
are functions of their own, too.

Members' answers are stacked `[n, ...]`, at most `f` of the n are Byzantine: they answer whatever does most harm. A
member with a value that is not finite is one of them: it is left out, and counts towards `f` and `n`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headrace.errors import InvalidRequest
from headrace.payload import Array


def krum(members: Array, f: int) -> tuple[Array, int]:
    """The one answer that is nearest to its n - f - 2 nearest neighbours, by the sum of squared distances.

    Blanchard, El Mhamdi, Guerraoui and Stainer (2017, NeurIPS, "Machine learning with adversaries: Byzantine tolerant
    gradient descent"), section 4; a tie goes to the earlier member.

    Args:
        members: `[n, ...]` FP64.
        f: Byzantine members at most.

    Returns:
        The answer `[...]`, and whose it is.

    Raises:
        InvalidRequest: n < 2 f + 3, or more than f members are not finite.
    """
    best = int(np.argmin(scores(members, f)))
    return members[best], best


def multi_krum(members: Array, f: int, m: int | None = None) -> tuple[Array, Array]:
    """The mean of the m answers that Krum would choose first (Blanchard et al. 2017, section 4).

    Args:
        members: `[n, ...]` FP64.
        f: Byzantine members at most.
        m: From 1 to n - f; None: n - f - 2, the number of neighbours.

    Returns:
        The answer `[...]`, and whose they are `[m]`.

    Raises:
        InvalidRequest: as of `krum`, or m is out of range.
    """
    m = len(members) - f - 2 if m is None else m
    found = scores(members, f)
    if not 1 <= m <= len(members) - f:
        raise InvalidRequest(f"multi-krum takes the mean of 1 to {len(members) - f} of the members, not of {m}")
    chosen = np.sort(np.argsort(found, kind="stable")[:m])
    return members[chosen].mean(0), chosen


def scores(members: Array, f: int) -> Array:
    """Krum's score of each member `[n]`: infinite where it is not finite.

    Raises:
        InvalidRequest: as of `krum`.
    """
    n = len(members)
    if f < 0 or n < 2 * f + 3:
        raise InvalidRequest(
            f"krum withstands f Byzantine members of n where n >= 2 f + 3 and f >= 0; f is {f}, which needs "
            f"{2 * max(f, 0) + 3} members, and {n} came"
        )
    flat = members.reshape(n, -1).astype(np.float64)
    is_fine = np.asarray(np.isfinite(flat).all(1))
    _check_lost(is_fine, f, "krum")
    points = np.where(is_fine[:, None], flat, 0.0)
    # Differences, not products: answers that agree to the last digits are told apart.
    unit = float(np.abs(points).max(initial=0.0)) or 1.0  # squares of very large numbers would overflow
    points = points / unit
    squared = np.stack([((points - each) ** 2).sum(1) for each in points])
    squared[~is_fine] = np.inf
    squared[:, ~is_fine] = np.inf
    np.fill_diagonal(squared, np.inf)
    nearest = np.sort(squared, axis=1)[:, : n - f - 2]
    return np.where(is_fine, nearest.sum(1), np.inf)


def trimmed_mean(members: Array, f: int) -> Array:
    """Element by element the mean without the f largest and the f smallest values: `[...]`.

    Yin, Chen, Ramchandran and Bartlett (2018, ICML, "Byzantine-robust distributed learning: towards optimal statistical
    rates"), definition 2, beta = f / n. A value that is not finite stands at one of the ends (they are dealt so that
    both ends have f), and so is cut off.

    Raises:
        InvalidRequest: n < 2 f + 1, or more than f members are not finite.
    """
    n = len(members)
    if f < 0 or n < 2 * f + 1:
        raise InvalidRequest(
            f"trimmed-mean cuts f off both ends and needs n >= 2 f + 1 members, f >= 0; f is {f} and {n} came"
        )
    members = members.astype(np.float64)
    is_fine = np.asarray(np.isfinite(members).reshape(n, -1).all(1))
    _check_lost(is_fine, f, "trimmed-mean")
    ordered = np.sort(np.where(np.isnan(members), np.inf, members), axis=0)
    found: Array = ordered[f : n - f].mean(0)
    return found


def median(members: Array, f: int | None = None) -> Array:
    """Element by element the median (Yin et al. 2018, definition 1) of the members that are finite: `[...]`.

    Args:
        members: `[n, ...]`.
        f: Byzantine members at most; None: no more than half of them can be.

    Raises:
        InvalidRequest: n < 2 f + 1, or more than f members (None: half) are not finite.
    """
    n = len(members)
    f = (n - 1) // 2 if f is None else f
    if f < 0 or n < 2 * f + 1:
        raise InvalidRequest(f"a median withstands f of n >= 2 f + 1 members, f >= 0; f is {f} and {n} came")
    members = members.astype(np.float64)
    is_fine = np.asarray(np.isfinite(members.reshape(n, -1)).all(1))
    _check_lost(is_fine, f, "median")
    return np.asarray(np.median(members[is_fine], axis=0))


def vote(members: Array, f: int = 0) -> tuple[Array, Array]:
    """Element by element the value that most members give, and how many do; a tie goes to the earlier one.

    With n >= 2 f + 1 members of which all honest ones agree, theirs is answered, whatever the f others say.

    Returns:
        Values `[...]` and counts `[...]` INT64.

    Raises:
        InvalidRequest: n < 2 f + 1.
    """
    n = len(members)
    if f < 0 or n < 2 * f + 1:
        raise InvalidRequest(f"a vote withstands f of n >= 2 f + 1 members, f >= 0; f is {f} and {n} came")
    behind = np.stack([np.asarray(members == each, np.int64).sum(0) for each in members])
    winner = behind.argmax(0)[None]
    return np.take_along_axis(members, winner, 0)[0], np.take_along_axis(behind, winner, 0)[0]


def dissent(members: Array, answer: Array, f: int) -> Array:
    """Which members `[n]` BOOL are further from the answer than honest ones would be.

    Those that are not finite; and those whose distance to it is more than three times that of the (n - f)-th nearest,
    and more than rounding. A count to look at, not a proof.
    """
    n = len(members)
    flat = members.reshape(n, -1).astype(np.float64)
    is_fine = np.asarray(np.isfinite(flat).all(1))
    gaps = np.abs(np.where(is_fine[:, None], flat, 0.0) - answer.reshape(1, -1)).max(1, initial=0.0)
    gaps[~is_fine] = np.inf
    usual = float(np.sort(gaps)[max(n - f - 1, 0)])
    rounding = 1e-6 * max(float(np.abs(answer).max(initial=0.0)), 1e-300)
    found: Array = ~is_fine | (gaps > max(3 * usual, rounding))
    return found


def stacked(members: Sequence[tuple[str, Array]]) -> Array:
    """Answers by the names of those who gave them, as `[n, ...]`.

    Raises:
        InvalidRequest: there are none, or one has another shape; names it.
    """
    if not members:
        raise InvalidRequest("nothing came to aggregate; expected the answer of at least one member")
    first, one = members[0]
    for name, each in members:
        if each.shape != one.shape:
            raise InvalidRequest(
                f"member '{name}' answers shape {list(each.shape)}, but '{first}' {list(one.shape)}; expected one shape"
            )
    return np.stack([each for _, each in members])


def _check_lost(is_fine: Array, f: int, what: str) -> None:
    lost = int((~is_fine).sum())
    if lost > f:
        raise InvalidRequest(
            f"{what}: {lost} of {len(is_fine)} members answered values that are not finite, and it withstands {f}"
        )
