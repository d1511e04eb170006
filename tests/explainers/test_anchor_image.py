"""Anchors of images and their superpixels: patches that are known to matter, each background, each layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from headrace.errors import InvalidRequest
from headrace.explainers import superpixels
from headrace.explainers.anchor_image import AnchorImage, channels_last
from headrace.explainers.base import Ask, Reference
from headrace.features import numeric
from headrace.payload import Array
from headrace.testing.explainers import ExplainerConformance


def lamp(x: Array) -> Array:
    """Whether the upper left quarter of an 8 x 8 image is bright."""
    bright = x.reshape(len(x), 8, 8)[:, :4, :4].mean(axis=(1, 2)) > 0.8
    return np.stack([~bright, bright], axis=1).astype(np.float64)


def image() -> Array:
    made = np.full((8, 8), 0.2)
    made[:4, :4] = 1.0
    return made.ravel()


def reference(rows: int = 20) -> Reference:
    x = np.random.default_rng(0).random((rows, 64)) * 0.5
    return Reference(features=numeric(64, shape=(8, 8)), x=x, classes=("dark", "bright"))


class TestAnchorImage(ExplainerConformance):
    method = "anchor-image"

    def reference(self) -> Reference:
        x = np.random.default_rng(0).random((20, 64)) * 0.5
        return Reference(features=numeric(64, shape=(8, 8)), x=x, classes=("dark", "bright", "none"))

    def predict(self, x: Array) -> Array:
        two = lamp(x)
        return np.concatenate([two, 0 * two[:, :1]], axis=1)

    def row(self) -> Array:
        return image()


@pytest.mark.parametrize("background", ["blur", "reference"])
def test_finds_the_patch_that_matters(background: Any) -> None:
    """Of a model that looks at one of four quarters, the anchor is that quarter's superpixel and shows its pixels."""
    found = AnchorImage.make(reference()).explain(Ask(lamp), image(), segments=4, background=background)
    assert found.data["raw"]["feature"] == [0]
    assert found.data["segments"].tolist() == superpixels.grid(8, 8, 4).tolist()
    assert found.data["anchor"].shape == (8, 8)
    assert (found.data["anchor"][:4, :4] == 1).all()
    assert found.data["anchor"].sum() == 16
    assert abs(found.data["coverage"] - 0.5) < 0.02
    assert found.data["met_threshold"]


def test_the_mean_of_a_plain_patch_takes_nothing_away() -> None:
    """Where every superpixel is of one colour, its mean shows the same: the anchor is empty."""
    found = AnchorImage.make(reference()).explain(Ask(lamp), image(), segments=4, background="mean")
    assert found.data["raw"]["feature"] == []
    assert found.data["precision"] == 1.0


@pytest.mark.parametrize("shape", [(6, 8, 3), (3, 6, 8), (6, 8, 1), (1, 6, 8)], ids=str)
@pytest.mark.parametrize("segmentation", ["grid", "slic"])
def test_takes_channels_first_and_last(shape: tuple[int, ...], segmentation: Any) -> None:
    """Channels stand last or first, and a superpixel covers all of them."""
    rng = np.random.default_rng(0)
    x = rng.random(int(np.prod(shape)))
    made = AnchorImage.make(Reference(features=numeric(x.size, shape=shape), x=x[None]))

    def predict(rows: Array) -> Array:
        corner = np.stack([channels_last(row, shape)[0, 0].mean() for row in rows])
        same = np.abs(corner - channels_last(x, shape)[0, 0].mean()) < 1e-9
        return np.stack([~same, same], axis=1).astype(np.float64)

    found = made.explain(Ask(predict), x, segments=6, segmentation=segmentation, background="blur")
    assert found.data["segments"].shape == (6, 8)
    assert found.data["raw"]["feature"] == [int(found.data["segments"][0, 0])]
    kept = channels_last(found.data["anchor"].ravel(), shape)
    inside = found.data["segments"] == found.data["segments"][0, 0]
    assert (kept[~inside] == 0).all()
    assert np.allclose(kept[inside], channels_last(x, shape)[inside])


def test_slic_follows_edges() -> None:
    """Patches of two plain halves with a crooked border do not cross the border, are connected and numbered from 0."""
    border = 20 + np.round(6 * np.sin(np.arange(48) / 6)).astype(int)
    made = (np.arange(40)[None] >= border[:, None]).astype(np.float64)
    segments = superpixels.slic(made[..., None], 30, compactness=0.3)
    assert sorted(set(segments.ravel().tolist())) == list(range(segments.max() + 1))
    assert 15 <= segments.max() + 1 <= 45
    crossing = sum(
        min((made[segments == at] == 1).sum(), (made[segments == at] == 0).sum()) for at in range(segments.max() + 1)
    )
    assert crossing <= 0.01 * made.size
    assert all(ndimage.label(segments == at)[1] == 1 for at in range(segments.max() + 1))


@pytest.mark.parametrize(("height", "width", "count"), [(1, 1, 1), (2, 3, 100), (8, 8, 25), (30, 10, 7)], ids=str)
def test_a_grid_is_whole(height: int, width: int, count: int) -> None:
    """A grid numbers its rectangles without a gap, however many are asked for."""
    segments = superpixels.grid(height, width, count)
    assert segments.shape == (height, width)
    assert sorted(set(segments.ravel().tolist())) == list(range(segments.max() + 1))
    assert segments.max() + 1 <= max(2 * count, 1)


def test_slic_of_a_plain_image_is_whole() -> None:
    """An image of one colour is cut, and none of its patches is lost."""
    segments = superpixels.slic(np.zeros((20, 30, 3)), 12)
    assert sorted(set(segments.ravel().tolist())) == list(range(segments.max() + 1))
    assert segments.max() + 1 == superpixels.grid(20, 30, 12).max() + 1


def test_refuses_what_is_no_image() -> None:
    """Rows without a shape, an unknown background and no superpixels are refused by name."""
    with pytest.raises(InvalidRequest, match="shape"):
        AnchorImage.make(Reference(features=numeric(4), x=np.zeros((3, 4))))
    made = AnchorImage.make(reference())
    for options in ({"background": "odd"}, {"segments": 0}, {"segmentation": "odd"}, {"compactness": 0.0}):
        with pytest.raises(InvalidRequest):
            made.explain(Ask(lamp), image(), **{"segmentation": "slic", **options})
