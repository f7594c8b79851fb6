from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dinoscope.arrays.calibrate import Calibration
from dinoscope.arrays.decode import decode_instances
from dinoscope.config import InstanceOptions, PredictOptions
from dinoscope.engine.cost import START_S, estimate_cost
from dinoscope.engine.predict import predict, run_prediction
from dinoscope.errors import InputError, MissingHeadError
from dinoscope.models.model import Model
from dinoscope.types import ImageInput, PlaneOutput, Progress

ALL = ("instance", "semantic", "depth", "classification", "pca")


class Counting:
    """A lazy array that remembers which planes were read."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.shape = array.shape
        self.dtype = array.dtype
        self.most = 0

    def __getitem__(self, key: Any) -> np.ndarray:
        part = self.array[key]
        self.most = max(self.most, part.size)
        return part


def _stack(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4000, shape).astype(np.uint16)


def test_every_task_of_a_stack_comes_back_in_its_shape_and_type(full_model: Model) -> None:
    image = ImageInput(_stack(2, 3, 70, 90), "TCYX", {"Y": 0.5, "X": 0.5}, "t")
    options = PredictOptions(ALL, diameter_px=20.0, threads=1)
    arrays, objects, classes, summary = run_prediction(image, full_model, options)
    assert {n: (a.shape, a.dtype.name) for n, a in arrays.items()} == {
        "instance": ((2, 70, 90), "uint32"),
        "semantic": ((2, 70, 90), "uint8"),
        "depth": ((2, 70, 90), "float32"),
        "pca": ((2, 70, 90, 3), "float32"),
    }
    assert objects is not None
    assert classes is not None
    labels = [set(np.unique(p)) - {0} for p in arrays["instance"]]
    assert labels[0].isdisjoint(labels[1])
    assert sorted(labels[0] | labels[1]) == objects["label"].tolist() == classes["object"].tolist()
    assert np.allclose(objects["area_um2"], objects["area_px"] * 0.25)
    assert summary.planes == 2
    assert summary.diameter_px == 20.0
    assert summary.class_names["classification"] == ("dim", "bright")


def test_a_region_agrees_with_the_whole_plane(full_model: Model) -> None:
    image = ImageInput(_stack(300, 260), "YX")
    for diameter in (20.0, 28.0, 45.0):
        options = PredictOptions(("depth", "semantic"), diameter_px=diameter, threads=1)
        whole, *_ = run_prediction(image, full_model, options)
        part = PredictOptions(
            ("depth", "semantic"), diameter_px=diameter, threads=1, region=(90, 40, 210, 200)
        )
        region, *_ = run_prediction(image, full_model, part)
        np.testing.assert_allclose(region["depth"], whole["depth"][90:210, 40:200], atol=2e-3)
        assert (region["semantic"] != whole["semantic"][90:210, 40:200]).mean() < 0.002


def test_one_plane_agrees_with_that_plane_of_the_stack(full_model: Model) -> None:
    stack = _stack(4, 60, 60)
    stack[1] //= 10  # limits come from the whole stack, so a dim plane stays dim
    image = ImageInput(stack, "ZYX")
    whole, *_ = run_prediction(
        image, full_model, PredictOptions(("depth",), diameter_px=28, threads=1)
    )
    one, *_ = run_prediction(
        image, full_model, PredictOptions(("depth",), diameter_px=28, threads=1, plane=(1,))
    )
    assert np.array_equal(one["depth"], whole["depth"][1])


def test_planes_are_read_one_at_a_time(full_model: Model) -> None:
    data = Counting(_stack(12, 50, 50))
    image = ImageInput(data, "ZYX")
    events = list(predict(image, full_model, PredictOptions(("depth",), diameter_px=28, threads=1)))
    assert sum(isinstance(e, PlaneOutput) for e in events) == 12
    assert data.most == 50 * 50


def test_progress_counts_up_and_closing_stops(full_model: Model) -> None:
    image = ImageInput(_stack(5, 60, 60), "TYX")
    events = predict(image, full_model, PredictOptions(("depth",), diameter_px=28, threads=1))
    seen = []
    for event in events:
        if isinstance(event, PlaneOutput):
            break
        seen.append(event)
    events.close()
    steps = [e for e in seen if isinstance(e, Progress) and e.step == "predict"]
    assert steps
    assert steps[-1].done <= steps[-1].total
    assert steps[-1].seconds_left is not None


@pytest.mark.parametrize("shape", [(1, 1), (1, 10_000), (3, 5), (113, 1)])
@pytest.mark.parametrize("dtype", ["uint8", "bool", "float64", "int16"])
def test_odd_shapes_and_types_give_results_of_their_shape(
    full_model: Model, shape: tuple[int, int], dtype: str
) -> None:
    image = ImageInput((_stack(*shape) % 7).astype(dtype), "YX")
    options = PredictOptions(("instance", "semantic", "depth", "pca"), diameter_px=28, threads=1)
    arrays, *_ = run_prediction(image, full_model, options)
    assert {a.shape[:2] for a in arrays.values()} == {shape}
    assert all(np.isfinite(a).all() for a in arrays.values())


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_nan_inf_and_constant_images_give_finite_results(full_model: Model, value: float) -> None:
    pixels = np.full((40, 40), value, np.float32)
    if not np.isfinite(value):
        pixels[10:30] = 5
    arrays, *_ = run_prediction(
        ImageInput(pixels, "YX"), full_model, PredictOptions(("depth", "pca"), threads=1)
    )
    assert all(np.isfinite(a).all() for a in arrays.values())


def test_twenty_channels_are_fused(full_model: Model) -> None:
    image = ImageInput(_stack(20, 40, 40), "CYX")
    both, *_ = run_prediction(
        image, full_model, PredictOptions(("depth",), diameter_px=28, threads=1)
    )
    one, *_ = run_prediction(
        image, full_model, PredictOptions(("depth",), diameter_px=28, threads=1, channels=(3,))
    )
    assert both["depth"].shape == one["depth"].shape == (40, 40)
    assert not np.array_equal(both["depth"], one["depth"])


def test_an_empty_image_is_refused_by_name(full_model: Model) -> None:
    image = ImageInput(np.zeros((0, 5), np.uint8), "YX", name="nothing")
    with pytest.raises(InputError, match="nothing"):
        run_prediction(image, full_model, PredictOptions(("depth",), threads=1))


def test_a_missing_head_names_the_task_and_what_there_is() -> None:
    image = ImageInput(np.zeros((30, 30), np.uint8), "YX")
    with pytest.raises(MissingHeadError, match=r"no head for 'depth'.*it has: none"):
        run_prediction(image, Model.fresh("tiny-test"), PredictOptions(("depth",)))


def test_kept_maps_decode_to_the_same_objects(full_model: Model) -> None:
    image = ImageInput(_stack(90, 90), "YX")
    options = PredictOptions(("instance",), diameter_px=28, threads=1, keep_maps=True)
    output = next(e for e in predict(image, full_model, options) if isinstance(e, PlaneOutput))
    again = decode_instances(output.maps["instance"], InstanceOptions())
    assert np.array_equal(again, output.arrays["instance"])


def test_dark_and_flat_are_applied_before_anything_else(full_model: Model) -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(200, 1000, (60, 60)).astype(np.float32)
    flat = np.linspace(50, 150, 60, dtype=np.float32)[None].repeat(60, 0)
    seen = truth * flat / flat.mean() + 10
    options = PredictOptions(("depth",), diameter_px=28, threads=1)
    clean, *_ = run_prediction(ImageInput(truth, "YX"), full_model, options)
    dark = np.full((60, 60), 10, np.float32)
    corrected, *_ = run_prediction(
        ImageInput(seen, "YX"), full_model, options, Calibration(dark, flat + 10)
    )
    np.testing.assert_allclose(corrected["depth"], clean["depth"], atol=5e-3)


def test_cost_grows_with_planes(full_model: Model) -> None:
    options = PredictOptions(("instance",), diameter_px=28, threads=1)
    one = estimate_cost(ImageInput(_stack(100, 100), "YX"), full_model, options)
    ten = estimate_cost(ImageInput(_stack(10, 100, 100), "ZYX"), full_model, options)
    assert ten["planes"] == 10
    assert ten["seconds"] - START_S == pytest.approx(10 * (one["seconds"] - START_S))
    assert ten["memory_mb"] == one["memory_mb"]  # planes are worked on one after the other


def test_cost_counts_the_looks_for_a_diameter_and_what_an_earlier_run_found(
    full_model: Model,
) -> None:
    image = ImageInput(_stack(100, 100), "YX")
    given = estimate_cost(image, full_model, PredictOptions(("instance",), diameter_px=28))
    automatic = PredictOptions(("instance",))
    unknown = estimate_cost(image, full_model, automatic)
    small = estimate_cost(image, full_model, automatic, diameter_px=7)
    assert (given["at_least"], unknown["at_least"], small["at_least"]) == (0, 1, 0)
    assert unknown["seconds"] > given["seconds"]
    assert small["tiles"] > unknown["tiles"]  # small objects are looked at enlarged
