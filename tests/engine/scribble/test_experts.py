"""What joins the forest: a discriminant of smoothed intensities, a network's own classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dinoscope.arrays.filters import FilterBank
from dinoscope.engine.scribble.classifier import Samples, calibrated, fit
from dinoscope.engine.scribble.experts import SAY, Linear, Network, fit_linear, join
from dinoscope.engine.scribble.features import PlaneFeatures, Projection, plain_columns
from dinoscope.engine.scribble.persist import load_classifier, save_classifier
from dinoscope.engine.scribble.predicting import predict
from dinoscope.errors import InputError


def stained(
    n: int, apart: float = 60.0, seed: int = 0, classes: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Classes that the first two columns tell apart, beside thirty of noise."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % classes
    values = rng.integers(0, 256, (n, 32)).astype(np.float64)
    values[:, :2] = 60 + apart * truth[:, None] + 12 * rng.standard_normal((n, 2))
    return values.clip(0, 255).astype(np.uint8), truth


def coloured(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two colours under light that varies far more than they differ."""
    values, truth = stained(n, 0, seed)
    rng = np.random.default_rng(seed + 100)
    light, noise = 45 * rng.standard_normal(n), 5 * rng.standard_normal((n, 2))
    tone = np.where(truth > 0, 14, -14)
    values[:, 0] = (128 + light + tone + noise[:, 0]).clip(0, 255)
    values[:, 1] = (128 + light - tone + noise[:, 1]).clip(0, 255)
    return values, truth


def test_few_strokes_suffice_where_brightness_tells_classes_apart() -> None:
    (values, truth), (fresh, known) = coloured(40, 0), coloured(2000, 1)
    found = {}
    for plain in ((), (0, 1)):
        classifier = fit(Samples(values, (truth + 1).astype(np.uint8), fresh[:500], plain))
        found[plain] = float((classifier.probabilities(fresh).argmax(1) == known).mean())
        assert (classifier.linear is None) == (not plain)
    assert found[0, 1] > 0.95
    assert found[0, 1] > found[()] + 0.05


def test_it_stays_out_where_brightness_does_not_tell() -> None:
    values, truth = stained(400, apart=8)
    assert fit_linear(values, truth, 2, np.array([0, 1])) is None
    assert fit_linear(values, truth, 2, np.array([], np.int64)) is None
    assert fit_linear(values, np.zeros(400, np.int64), 1, np.array([0, 1])) is None


def test_its_say_grows_with_how_well_it_tells() -> None:
    says = []
    for apart in (37, 42, 60):
        found = fit_linear(*stained(4000, apart=apart), 2, np.array([0]))
        assert found is not None
        says.append(found.say)
    assert 0 < says[0] < says[1] < says[2] == pytest.approx(SAY)


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("stride", [1, 2])
def test_planes_are_predicted_as_single_pixels_are(classes: int, stride: int) -> None:
    values, truth = stained(600, apart=36, classes=classes)
    classifier = fit(Samples(values, (truth + 1).astype(np.uint8), values, (0, 1)))
    assert classifier.linear is not None
    maps = np.random.default_rng(3).integers(0, 256, (32, 21, 30)).astype(np.uint8)
    shape = (21, 30) if stride == 1 else (42, 60)
    found = predict(classifier, PlaneFeatures(shape, stride, maps), want=("probabilities",))
    assert found.probabilities is not None
    single = classifier.probabilities(maps.reshape(32, -1).T).reshape(21, 30, classes)
    seen = np.moveaxis(found.probabilities, 0, -1)[::stride, ::stride]
    assert np.abs(seen - single).max() < 3e-3


def test_a_class_of_which_all_is_known_is_still_a_sum_of_one() -> None:
    linear = Linear(np.array([0]), np.zeros((1, 2), np.float32), np.zeros(2, np.float32), SAY)
    joined = join([linear], np.array([[1.0], [0.0]], np.float32), np.zeros((1, 1), np.uint8))
    assert joined.sum() == pytest.approx(1)
    assert joined[0, 0] > 0.99


def test_a_network_overrules_a_forest_that_is_in_doubt_and_no_forest_learns_from_it() -> None:
    """Two columns of noise, then what a head says of classes 1 to 3; strokes are of 1 and 3."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 400)
    values = rng.integers(0, 256, (400, 5)).astype(np.uint8)
    values[:, 2:] = 10
    values[np.arange(400), 2 + 2 * truth] = 235
    codes = (1 + 2 * truth).astype(np.uint8)
    classifier = fit(Samples(values[:200], codes[:200], values, (), 3))
    assert classifier.network is not None
    assert classifier.network.columns.tolist() == [2, 4]
    assert classifier.forest.features.max() < 2
    said = classifier.codes[classifier.probabilities(values[200:]).argmax(1)]
    assert (said == codes[200:]).mean() > 0.95
    alone = replace(classifier, network=None).probabilities(values[200:]).argmax(1)
    assert (classifier.codes[alone] == codes[200:]).mean() < 0.7
    maps = np.ascontiguousarray(values[200:].T).reshape(5, 10, 20)
    plane = predict(classifier, PlaneFeatures((10, 20), 1, maps, 3)).labels
    assert np.array_equal(plane.ravel(), said)
    # A class that the head does not know: it has no say.
    assert fit(Samples(values, np.where(truth, 4, 1).astype(np.uint8), None, (), 3)).network is None


def test_calibration_holds_strokes_out_of_the_discriminant_too() -> None:
    values, truth = stained(240)
    samples = Samples(values, (truth + 1).astype(np.uint8), values, (0, 1))
    strokes = np.arange(240) // 20 * 2 + truth
    checked = calibrated(fit(samples), samples, strokes)
    assert checked.accuracy is not None
    assert checked.accuracy > 0.97


def test_it_is_kept_in_the_file(tmp_path: Path) -> None:
    values, truth = stained(100)
    classifier = fit(Samples(values, (truth + 1).astype(np.uint8), None, (0, 1)))
    projection = Projection(np.zeros(4, np.float32), np.zeros((4, 2), np.float32))
    path = save_classifier(tmp_path / "one", classifier, projection, {})
    back, _, _ = load_classifier(path)
    assert np.allclose(back.probabilities(values), classifier.probabilities(values))
    save_classifier(tmp_path / "two", replace(classifier, linear=None), projection, {})
    assert load_classifier(tmp_path / "two.safetensors")[0].linear is None
    network = Network(np.array([2, 3]))
    save_classifier(tmp_path / "three", replace(classifier, network=network), projection, {})
    again = load_classifier(tmp_path / "three.safetensors")[0].network
    assert again is not None
    assert again.columns.tolist() == [2, 3]
    assert classifier.linear is not None
    bad = replace(classifier.linear, offset=np.zeros(5, np.float32))
    save_classifier(tmp_path / "bad", replace(classifier, linear=bad), projection, {})
    with pytest.raises(InputError, match="cannot be read"):
        load_classifier(tmp_path / "bad.safetensors")


def test_columns_are_those_of_smoothed_intensities() -> None:
    bank = FilterBank()
    for channels in (1, 3):
        names = [bank.names(channels)[c] for c in plain_columns(bank, channels)]
        assert "gaussian 4" in names
        assert all(n.startswith(("gaussian", "channel")) for n in names)
        assert ("channel 2 1" in names) == (channels == 3)
        assert not any(n.endswith((" 8", " 16")) for n in names)
    assert plain_columns(None, 3) == ()
