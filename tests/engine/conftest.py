from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinoscope.arrays.files import write_image
from dinoscope.models.card import HeadSpec
from dinoscope.models.model import Model

HEADS = {
    "instance": HeadSpec("dense", 4),
    "semantic": HeadSpec("dense", 3, ("background", "round", "long")),
    "depth": HeadSpec("bins", 16, unit="relative"),
    "classification": HeadSpec("pooled-detail", 2, ("dim", "bright")),
}


@pytest.fixture
def full_model() -> Model:
    """Random weights, every head, small tiles."""
    return Model.fresh("tiny-test", HEADS, diameter_px=28.0, tile=(112, 140))


def discs(
    seed: int, shape: tuple[int, int] = (120, 130), count: int = 9
) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image of bright discs and their ids."""
    rng = np.random.default_rng(seed)
    yy, xx = np.indices(shape)
    ids = np.zeros(shape, np.int32)
    for number in range(1, count + 1):
        y, x, r = (
            rng.integers(12, shape[0] - 12),
            rng.integers(12, shape[1] - 12),
            rng.integers(7, 11),
        )
        ids[((yy - y) ** 2 + (xx - x) ** 2 < r * r) & (ids == 0)] = number
    image = 40 + 130 * (ids > 0) + rng.normal(0, 8, shape)
    return image.clip(0, 255).astype(np.uint8), ids


@pytest.fixture
def disc_image() -> tuple[np.ndarray, np.ndarray]:
    """One more such image and its ids."""
    return discs(99)


@pytest.fixture
def disc_folders(tmp_path: Path) -> tuple[Path, Path]:
    """Six images of discs with id images, in two folders."""
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    for seed in range(6):
        image, ids = discs(seed)
        write_image(images / f"d{seed}.tif", image, "YX", {})
        write_image(labels / f"d{seed}.tif", ids.astype(np.uint16), "YX", {})
    return images, labels
