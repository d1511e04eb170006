"""An image in patches, each a condition of its own: of a grid, or of what belongs together by colour and place.

SLIC: Achanta, Shaji, Smith, Lucchi, Fua, Suesstrunk (2012), "SLIC superpixels compared to state-of-the-art superpixel
methods", algorithm 1. Deviations: a pixel is compared with the centres of the nine cells of the start grid around its
own, so that an iteration is nine array operations; colours are compared as they are, scaled to the image's spread, not
in CIELAB; the least gradient is not sought for the start.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from headrace.errors import InvalidRequest
from headrace.payload import Array

ITERATIONS: Final = 10


def grid(height: int, width: int, count: int) -> Array:
    """`[h, w]` INT64: about `count` rectangles of about equal sides, numbered from 0 by row and column."""
    down, across = _cells(height, width, count)
    segments: Array = (np.arange(height) * down // height)[:, None] * across + (np.arange(width) * across // width)[
        None
    ]
    return segments


def slic(image: Array, count: int, *, compactness: float = 0.5) -> Array:
    """`[h, w]` INT64: about `count` connected patches, numbered from 0.

    Args:
        image: `[h, w, c]`.
        count: Of patches; some may vanish.
        compactness: The weight of place beside colour; where it is large, patches are squares.

    Raises:
        InvalidRequest: the compactness is not above 0.
    """
    if not compactness > 0:
        raise InvalidRequest(f"'compactness' of superpixels must be above 0, and is {compactness}")
    height, width, _ = image.shape
    down, across = _cells(height, width, count)
    start = grid(height, width, count)
    spread = float(image.std())
    colours = np.nan_to_num(image) / (spread if spread > 0 else 1.0)
    side = np.sqrt(height * width / (down * across))
    places = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1) * (compactness / side)
    points = np.concatenate([colours, places], axis=-1)

    near = _neighbours(start, down, across)
    labels = start
    for _ in range(ITERATIONS):
        centres = _centres(points, labels, down * across)
        distances = np.stack([((points - centres[each]) ** 2).sum(axis=-1) for each in near])
        nearest = distances.argmin(axis=0)
        found = np.take_along_axis(np.stack(near), nearest[None], axis=0)[0]
        if (found == labels).all():
            break
        labels = found
    return _connected(labels)


def _cells(height: int, width: int, count: int) -> tuple[int, int]:
    if count < 1:
        raise InvalidRequest(f"the number of superpixels must be at least 1, and is {count}")
    down = min(height, max(1, round(np.sqrt(count * height / width))))
    return down, min(width, max(1, round(count / down)))


def _neighbours(start: Array, down: int, across: int) -> list[Array]:
    """For each of the nine directions, the cell there; at the edge, the cell itself."""
    row, column = start // across, start % across
    return [
        (row + dr).clip(0, down - 1) * across + (column + dc).clip(0, across - 1)
        for dr in (-1, 0, 1)
        for dc in (-1, 0, 1)
    ]


def _centres(points: Array, labels: Array, count: int) -> Array:
    flat = labels.ravel()
    sizes = np.bincount(flat, minlength=count)
    sums = [np.bincount(flat, weights=points[..., at].ravel(), minlength=count) for at in range(points.shape[-1])]
    # A cell that lost all its pixels is far from everything.
    centres: Array = np.where(sizes[:, None] > 0, np.stack(sums, axis=1) / np.maximum(sizes, 1)[:, None], 1e9)
    return centres


def _connected(labels: Array) -> Array:
    """Of each label its largest piece; the others go to the nearest pixel that has one. Numbered anew."""
    from scipy import ndimage

    kept = np.full(labels.shape, -1)
    for label, place in enumerate(ndimage.find_objects(labels + 1)):
        if place is None:
            continue
        pieces, found = ndimage.label(labels[place] == label)
        if found:
            largest = np.bincount(pieces.ravel())[1:].argmax() + 1
            kept[place][pieces == largest] = label
    where = ndimage.distance_transform_edt(kept < 0, return_distances=False, return_indices=True)
    filled = kept[tuple(where)]
    numbered: Array = np.unique(filled, return_inverse=True)[1].reshape(labels.shape)
    return numbered
