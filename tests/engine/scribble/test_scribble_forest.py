"""Forest, calibration and prediction of the fast loop on made features."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dinoscope.engine.scribble import predicting
from dinoscope.engine.scribble.calibration import ece, fit_temperature, sharpen
from dinoscope.engine.scribble.classifier import (
    MANY,
    Classifier,
    Samples,
    calibrated,
    fit,
    stroke_numbers,
)
from dinoscope.engine.scribble.features import PlaneFeatures, Projection
from dinoscope.engine.scribble.forest import grow
from dinoscope.engine.scribble.next_place import least_certain
from dinoscope.engine.scribble.predicting import predict
from dinoscope.errors import InputError


def rings(n: int = 600, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Classes that only two features together tell apart, among noise."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (n, 8)).astype(np.uint8)
    radius = np.hypot(values[:, 0] - 128.0, values[:, 1] - 128.0)
    return values, np.minimum(radius // 60, classes - 1).astype(np.int64)


def test_a_forest_learns_what_no_line_separates() -> None:
    values, classes = rings()
    forest = grow(values, classes, 3)
    fresh, truth = rings(seed=1)
    assert (forest.probabilities(fresh).argmax(1) == truth).mean() > 0.8
    assert np.allclose(forest.probabilities(fresh).sum(1), 1, atol=1e-5)


def test_equal_input_gives_an_equal_forest() -> None:
    values, classes = rings()
    one, other = grow(values, classes, 3), grow(values, classes, 3)
    assert np.array_equal(one.leaves, other.leaves)
    assert not np.array_equal(grow(values, classes, 3, seed=1).features, one.features)


def test_a_threshold_lies_between_the_classes_it_parts() -> None:
    values = np.array([[10], [20], [200], [210]], np.uint8)
    forest = grow(values, np.array([0, 0, 1, 1]), 2, depth=1)
    assert forest.probabilities(np.array([[60], [150]], np.uint8)).argmax(1).tolist() == [0, 1]
    assert (forest.thresholds >= 10).all()


def test_leaves_of_many_classes_and_deep_trees_are_told_apart() -> None:
    """More leaves times classes than 16 bits count."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 200, 4000)
    values = np.stack([classes, 255 - classes, classes // 2, classes % 7], 1).astype(np.uint8)
    forest = grow(values, classes, 200, depth=10, pixels=800)
    numbers = np.zeros((len(forest.features), len(values)), np.int64)
    for level in range(10):
        bits = forest.thresholds[:, level, None] < values[:, forest.features[:, level]].T
        numbers = 2 * numbers + bits
    assert np.array_equal(forest.leaf_numbers(values), numbers)
    near = np.abs(forest.probabilities(values).argmax(1) - classes)
    assert np.median(near) <= 2
    assert np.allclose(forest.leaves.sum(-1), 1, atol=1e-4)


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (np.zeros((0, 3), np.uint8), np.zeros(0, np.int64)),
        (np.zeros((4, 3), np.float32), np.zeros(4, np.int64)),
        (np.zeros((4, 3), np.uint8), np.zeros(3, np.int64)),
    ],
)
def test_what_cannot_be_learned_is_refused(values: np.ndarray, classes: np.ndarray) -> None:
    with pytest.raises(InputError):
        grow(values, classes, 2)


@pytest.mark.parametrize("classes", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("at_once", [200, 10_000])
def test_planes_are_predicted_as_single_pixels_are(
    classes: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting, "_CHUNK", at_once)
    values, truth = rings(classes=classes, n=900)
    rng = np.random.default_rng(5)
    maps = rng.integers(0, 256, (8, 33, 47)).astype(np.uint8)
    forest = grow(values, truth % classes, classes)
    classifier = Classifier(np.arange(1, classes + 1).astype(np.uint8), forest)
    want = ("labels", "uncertainty", "probabilities")
    found = predict(classifier, PlaneFeatures((33, 47), 1, maps), want=want)
    single = forest.probabilities(maps.reshape(8, -1).T).reshape(33, 47, classes)
    assert found.probabilities is not None
    assert np.allclose(np.moveaxis(found.probabilities, 0, -1), single, atol=2e-3)
    ordered = np.sort(single, -1)
    clear = np.ones((33, 47), bool) if classes == 1 else ordered[..., -1] - ordered[..., -2] > 5e-3
    assert np.array_equal(found.labels[clear], single.argmax(-1)[clear] + 1)
    if classes > 1:
        assert found.uncertainty is not None
        ratio = ordered[..., -2] / ordered[..., -1]
        assert np.abs(found.uncertainty / 255 - ratio).max() < 0.02


@pytest.mark.parametrize("at_once", [200, 10_000])
@pytest.mark.parametrize("region", [None, (0, 0, 9, 9), (3, 5, 30, 60), (32, 60, 33, 61)])
def test_regions_of_strided_planes_are_parts_of_the_whole(
    region: tuple[int, int, int, int] | None, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting, "_CHUNK", at_once)
    values, truth = rings()
    classifier = Classifier(np.array([1, 2, 3], np.uint8), grow(values, truth, 3))
    maps = np.random.default_rng(5).integers(0, 256, (8, 17, 31)).astype(np.uint8)
    features = PlaneFeatures((33, 61), 2, maps)
    whole = predict(classifier, features).labels
    assert whole.shape == (33, 61)
    y0, x0, y1, x1 = region or (0, 0, 33, 61)
    part = predict(classifier, features, region).labels
    assert np.array_equal(part, whole[y0:y1, x0:x1])
    numbers = np.arange(33 * 61).reshape(33, 61)[::2, ::2].ravel()
    assert np.array_equal(features.at(numbers), maps.reshape(8, -1).T)


def test_calibration_mends_probabilities_that_are_too_sure() -> None:
    rng = np.random.default_rng(0)
    honest = rng.dirichlet((2, 2, 2), 4000)
    truth = np.array([rng.choice(3, p=p) for p in honest])
    sure = sharpen(honest, 0.4)
    temperature = fit_temperature(sure, truth)
    assert temperature == pytest.approx(2.5, rel=0.2)
    assert ece(sharpen(sure, temperature), truth) < 0.03 < ece(sure, truth)


def test_strokes_are_held_out_whole() -> None:
    """Features that only name the stroke tell nothing about the next one."""
    rng = np.random.default_rng(0)
    strokes = np.repeat(np.arange(40), 30)
    own = rng.integers(0, 256, (40, 6)).astype(np.uint8)
    codes = (strokes % 2 + 1).astype(np.uint8)
    samples = Samples(own[strokes], codes)
    plain = fit(samples)
    assert plain.accuracy is None
    classifier = calibrated(plain, samples, strokes)
    assert classifier.forest is plain.forest
    assert (
        classifier.codes[classifier.probabilities(own[strokes]).argmax(1)] == codes
    ).mean() > 0.9
    assert classifier.accuracy is not None
    assert classifier.accuracy < 0.75


def test_a_class_that_fills_little_of_the_image_is_not_seen_everywhere() -> None:
    """Strokes of like length; of the plane, one pixel in twenty is of the second class."""
    rng = np.random.default_rng(1)

    def pixels(truth: np.ndarray) -> np.ndarray:
        centres = 110 + 30 * truth[:, None]
        return rng.normal(centres, 25, (len(truth), 6)).clip(0, 255).astype(np.uint8)

    painted = np.repeat([0, 1], 150)
    values, codes = pixels(painted), (painted + 1).astype(np.uint8)
    truth = (rng.random(4000) < 0.05).astype(np.int64)
    plane = pixels(truth)
    plain = fit(Samples(values, codes)).probabilities(plane).argmax(1)
    aware = fit(Samples(values, codes, plane)).probabilities(plane).argmax(1)
    assert (aware != truth).mean() < 0.7 * (plain != truth).mean()
    assert (aware[truth == 1] == 1).mean() > 0.5


def test_too_few_strokes_leave_nothing_of_an_earlier_calibration() -> None:
    values, truth = rings(n=60)
    samples = Samples(values, (truth + 1).astype(np.uint8))
    earlier = replace(fit(samples), temperature=2.5, accuracy=0.9, ece=0.1)
    found = calibrated(earlier, samples, np.zeros(60, np.int64))
    assert (found.temperature, found.accuracy, found.ece) == (1.0, None, None)


def test_many_strokes_grow_deeper_trees_that_planes_are_predicted_by_all_the_same() -> None:
    values, truth = rings(n=MANY)
    codes = (truth + 1).astype(np.uint8)
    few = fit(Samples(values[:500], codes[:500]))
    many = fit(Samples(values, codes))
    assert many.forest.features.shape[1] > few.forest.features.shape[1]
    fresh, expected = rings(n=900, seed=1)
    maps = np.ascontiguousarray(fresh.T.reshape(8, 30, 30))
    labels = predict(many, PlaneFeatures((30, 30), 1, maps)).labels.ravel()
    assert (labels == many.probabilities(fresh).argmax(1) + 1).mean() > 0.99
    right = [(c.probabilities(fresh).argmax(1) == expected).mean() for c in (few, many)]
    assert right[1] > right[0]


def test_touching_pixels_of_one_code_are_one_stroke() -> None:
    layer = np.zeros((9, 9), np.uint8)
    layer[1, 1:4], layer[2, 4], layer[6, 6], layer[1, 5] = 2, 2, 2, 3
    pixels = np.flatnonzero(layer)
    numbers = stroke_numbers(pixels, layer.ravel()[pixels], layer.shape)
    assert len(set(numbers.tolist())) == 3
    assert len(stroke_numbers(np.zeros(0, np.int64), np.zeros(0, np.uint8), (9, 9))) == 0


def test_components_have_deviation_one_whatever_the_tokens_scale() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.normal(3, 1, (500, 20)) * np.geomspace(0.01, 100, 20)
    found = Projection.fit(tokens, 4)(tokens)
    assert found.shape == (500, 4)
    assert np.allclose(found.std(0), 1, atol=0.05)


def test_the_least_certain_patch_that_was_not_painted_is_next() -> None:
    uncertainty = np.zeros((256, 256), np.uint8)
    uncertainty[40:60, 40:60] = 255
    uncertainty[200:220, 100:120] = 200
    first = least_certain(("a", (3,)), uncertainty, np.zeros(0, np.int64))
    assert first is not None
    assert (first.source, first.index) == ("a", (3,))
    assert 32 <= first.y < 64
    painted = np.array([50 * 256 + 50])
    second = least_certain(("a", (3,)), uncertainty, painted)
    assert second is not None
    assert (second.y // 32, second.x // 32) == (6, 3)
    assert least_certain(("a", ()), uncertainty, np.arange(256 * 256)) is None
