from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dinoscope.engine import augment
from dinoscope.engine.augment import Augmentation, make_crop, vary_intensity
from dinoscope.engine.batches import BatchSource, CropPlan
from dinoscope.engine.dataset import ImageSet, TrainingImage


def _image(side: int = 96) -> TrainingImage:
    ids = np.zeros((side, side), np.int32)
    ids[10:40, 10:40] = 1
    ids[50:80, 45:75] = 2
    pixels = np.repeat((ids > 0)[None], 3, 0).astype(np.float16)
    semantic = (ids > 0).astype(np.uint8)
    return TrainingImage("a", "a", pixels, {"instance": ids, "semantic": semantic}, 30.0)


@pytest.mark.parametrize("seed", range(6))
def test_pixels_and_truths_move_together(seed: int) -> None:
    quiet = Augmentation(intensity=0.0, invert=0.0, scale_jitter=1.0, far_scale=0.3)
    pixels, targets = make_crop(_image(), np.random.default_rng(seed), 56, 1.0, quiet, 28.0)
    inside = pixels[0] > 0.5
    assert pixels.shape == (3, 56, 56)
    # Nearest and linear sampling differ on the rims only.
    assert (inside != (targets["semantic"] > 0)).mean() < 0.06
    assert np.array_equal(targets["instance"][0] > 0, targets["semantic"] > 0)


def test_the_size_map_tells_the_zoom() -> None:
    still = Augmentation(geometry=False, intensity=0.0)
    for zoom in (0.5, 1.0, 2.0):
        _, targets = make_crop(_image(), np.random.default_rng(0), 56, zoom, still, 30.0)
        assert np.allclose(targets["instance"][3], np.log2(zoom))


@pytest.mark.parametrize("seed", range(8))
def test_intensity_changes_stay_finite_and_in_range(seed: int) -> None:
    pixels = np.random.default_rng(seed).random((3, 42, 42), np.float32)
    out = vary_intensity(pixels, np.random.default_rng(seed), Augmentation(intensity=1.0, invert=1))
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    assert out.min() >= -0.5
    assert out.max() <= 1.5
    assert not np.array_equal(out, pixels)


def test_absolute_classes_are_never_inverted_or_rescaled() -> None:
    kept = Augmentation(scale_jitter=0.0, intensity=1.0, invert=0.0, keep_absolute=True)
    image = _image()
    for seed in range(10):
        pixels, targets = make_crop(image, np.random.default_rng(seed), 98, 1.0, kept, None)
        objects = targets["semantic"] > 0
        assert pixels[:, objects].mean() > pixels[:, ~objects].mean()


def test_the_same_step_gives_the_same_batch_and_another_step_another() -> None:
    source = BatchSource([ImageSet("s", [_image()])], CropPlan(56, 28.0), 3, seed=4)
    again = BatchSource([ImageSet("s", [_image()])], CropPlan(56, 28.0), 3, seed=4)
    assert np.array_equal(source[7].pixels.numpy(), again[7].pixels.numpy())
    assert not np.array_equal(source[7].pixels.numpy(), source[8].pixels.numpy())


def test_a_batch_says_which_rows_have_which_truth() -> None:
    depth = TrainingImage(
        "d", "d", np.zeros((3, 60, 60), np.float16), {"depth": np.ones((60, 60), np.float32)}
    )
    source = BatchSource(
        [ImageSet("i", [_image()]), ImageSet("d", [depth])], CropPlan(56, 28.0), 12, 0
    )
    batch = source[0]
    rows = {name: set(rows.tolist()) for name, (rows, _) in batch.truths.items()}
    assert rows["instance"] == rows["semantic"]
    assert rows["instance"].isdisjoint(rows["depth"])
    assert rows["instance"] | rows["depth"] == set(range(12))


@pytest.mark.parametrize("side", [64, 300])
def test_a_part_of_an_image_gives_the_same_crop_as_all_of_it(
    side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.random((3, side, side)).astype(np.float16)
    truth = rng.integers(0, 3, (side, side)).astype(np.uint8)
    image = TrainingImage("a", "a", pixels, {"semantic": truth}, None)
    quiet = Augmentation(intensity=0.0, invert=0.0)
    seen: list[int] = []
    sample = augment._sample

    def watched(maps: np.ndarray, *more: Any) -> np.ndarray:
        seen.append(maps[0].size)
        return sample(maps, *more)

    monkeypatch.setattr(augment, "_sample", watched)
    part = [make_crop(image, np.random.default_rng(n), 48, 1.0, quiet, None) for n in range(8)]
    read = min(seen)
    windowed = augment._windowed

    def everything(places: np.ndarray, shape: tuple[int, int]) -> Any:
        """As where a crop reaches beyond its image."""
        beyond = np.concatenate([places, places - 10 * side], 1)
        window, grid = windowed(beyond, shape)
        return window, grid[:, : places.shape[1]]

    monkeypatch.setattr(augment, "_windowed", everything)
    whole = [make_crop(image, np.random.default_rng(n), 48, 1.0, quiet, None) for n in range(8)]
    assert read < side * side
    for (own, truths), (all_of_it, others) in zip(part, whole, strict=True):
        assert np.allclose(own, all_of_it, atol=1e-3)
        # A place half-way between two pixels may fall to either.
        assert (truths["semantic"] != others["semantic"]).mean() < 0.01


def test_crops_larger_than_their_image_reflect_it() -> None:
    still = Augmentation(geometry=False, intensity=0.0)
    pixels = np.random.default_rng(0).random((3, 40, 200)).astype(np.float16)
    image = TrainingImage("a", "a", pixels, {}, None)
    crop, _ = make_crop(image, np.random.default_rng(1), 56, 1.0, still, None)
    assert np.allclose(crop[:, :8], crop[:, 15:7:-1], atol=1e-3)


def test_coarse_crops_are_as_a_camera_with_larger_pixels_sees_them() -> None:
    rng = np.random.default_rng(0)
    image = TrainingImage("a", "a", rng.random((3, 160, 160)).astype(np.float16), {}, None)
    still = Augmentation(geometry=False, intensity=0.0)
    coarse = Augmentation(geometry=False, intensity=0.0, coarse=1.0)
    fine, _ = make_crop(image, np.random.default_rng(1), 64, 1.0, still, None)
    seen, _ = make_crop(image, np.random.default_rng(1), 64, 1.0, coarse, None)
    step = lambda x: float(np.abs(np.diff(x, axis=-1)).mean())  # noqa: E731
    assert step(seen) < 0.6 * step(fine)
    assert seen.mean() == pytest.approx(fine.mean(), abs=0.01)
    # Seen at a quarter of its size, an image is sharp whatever its own pixels were.
    small, _ = make_crop(image, np.random.default_rng(1), 64, 0.25, still, None)
    same, _ = make_crop(image, np.random.default_rng(1), 64, 0.25, coarse, None)
    assert np.array_equal(small, same)
