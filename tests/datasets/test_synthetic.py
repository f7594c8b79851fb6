"""The generator: exact truth, every kind, explicit parameters, and speed."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label, regionprops

from dinoscope.datasets.synthetic import KINDS, SEMANTIC_CLASSES, make, parameters
from dinoscope.datasets.synthetic.image import CELL, MEMBRANE, NUCLEUS, ROD
from dinoscope.datasets.synthetic.raster import seams
from dinoscope.errors import InputError

WITH_INSTANCES = tuple(k for k in KINDS if k not in ("filaments", "surface"))


def sizes(ids: np.ndarray) -> np.ndarray:
    return np.bincount(ids.ravel())[1:]


@pytest.mark.parametrize("kind", KINDS)
def test_image_and_truths_fit_together(kind: str) -> None:
    made = make(kind, (96, 128), seed=1)
    assert made.kind == kind
    assert made.image.shape[-2:] == (96, 128)
    assert made.image.ndim == 3 == len(made.axes)
    assert made.image.dtype == np.float32
    assert made.image.min() >= 0
    assert made.image.max() <= 1
    assert made.image.std() > 0.003
    assert made.instances.shape == made.semantic.shape == (96, 128)
    assert made.instances.dtype == np.int32
    assert made.semantic.dtype == np.uint8
    assert made.semantic.max() < len(SEMANTIC_CLASSES)
    assert ("depth" in made.tasks) == (made.depth is not None)
    assert ("instance" in made.tasks) == (made.object_count > 0)
    assert made.as_input().axes == made.axes


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_image_other_seed_other_image(kind: str) -> None:
    first, again, other = make(kind, (64, 64), 5), make(kind, (64, 64), 5), make(kind, (64, 64), 6)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.instances, again.instances)
    assert first.image.shape != other.image.shape or not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("kind", WITH_INSTANCES)
@pytest.mark.parametrize("seed", range(3))
def test_ids_are_contiguous_connected_and_foreground(kind: str, seed: int) -> None:
    made = make(kind, (128, 128), seed=seed, diameter=20)
    assert set(np.unique(made.instances)) <= set(range(made.object_count + 1))
    assert (sizes(made.instances) >= 12).all()
    assert label(made.instances, connectivity=1).max() == made.object_count
    assert (made.semantic[made.instances > 0] > 0).all()
    assert len(made.object_classes) == made.object_count


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("nuclei", NUCLEUS),
        ("touching", NUCLEUS),
        ("rods", ROD),
        ("phase", CELL),
        ("tissue", NUCLEUS),
    ],
)
def test_objects_have_the_class_of_their_kind(kind: str, code: int) -> None:
    assert set(make(kind, (128, 128), seed=2).object_classes) == {code}


def test_membranes_part_the_sections() -> None:
    made = make("membranes", (128, 128), seed=0)
    np.testing.assert_array_equal(made.semantic == MEMBRANE, made.instances == 0)
    # Two sections never touch: between them there is membrane.
    grown = ndimage.grey_dilation(made.instances, footprint=ndimage.generate_binary_structure(2, 1))
    assert not ((grown != made.instances) & (made.instances > 0)).any()


@pytest.mark.parametrize("kind", ["nuclei", "touching", "rods", "phase", "brightfield"])
@pytest.mark.parametrize("diameter", [12, 30])
def test_objects_have_the_diameter_asked_for(kind: str, diameter: float) -> None:
    found = []
    for seed in range(4):
        made = make(kind, (224, 224), seed=seed, diameter=diameter)
        inner = np.setdiff1d(
            np.arange(1, made.object_count + 1),
            np.concatenate([*made.instances[[0, -1]], *made.instances[:, [0, -1]].T]),
        )
        found.extend(2 * np.sqrt(sizes(made.instances)[inner - 1] / np.pi))
    assert np.median(found) == pytest.approx(diameter, rel=0.2)


def test_touching_objects_touch_and_spread_ones_do_not() -> None:
    def share_touching(kind: str, spacing: float) -> float:
        made = make(
            kind, (224, 224), 0, 24, spacing=spacing, coverage=0.7, clusters=0, elongation=0
        )
        return len(np.unique(made.instances[seams(made.instances)])) / made.object_count

    assert share_touching("touching", 0.75) > 0.7
    assert share_touching("nuclei", 1.4) < 0.1


@pytest.mark.parametrize("arrangement", ["colony", "packed", "scattered"])
def test_rods_are_long_and_keep_their_width(arrangement: str) -> None:
    made = make(
        "rods",
        (224, 224),
        3,
        arrangement=arrangement,
        width=10,
        aspect=4,
        bend=0.1,
        length_spread=0.1,
    )
    whole = [
        r for r in regionprops(made.instances) if min(r.bbox[:2]) > 0 and max(r.bbox[2:]) < 224
    ]
    ratios = [r.axis_major_length / r.axis_minor_length for r in whole]
    assert np.median(ratios) > 2.8
    assert np.median([r.axis_minor_length for r in whole]) == pytest.approx(10, abs=2.5)


@pytest.mark.parametrize("look", ["fluorescence", "membrane", "phase", "brightfield"])
def test_rods_can_be_seen_in_every_look(look: str) -> None:
    made = make("rods", (160, 160), 1, 24, look=look, noise=0.01, polarity="bright")
    inside = made.instances > 0
    image = made.image[0]
    assert image[inside].mean() > image[~inside].mean()


def test_parameters_outside_the_usual_ranges_are_taken() -> None:
    made = make("rods", (128, 128), 0, aspect=12, width=5, bend=1.2, disorder=0.8, noise=0.3)
    assert made.object_count > 0
    made = make("surface", (96, 96), 0, diameter=200, blur_range_px=20, tilt=3.0, shading=0)
    assert made.depth is not None
    assert make("phase", (96, 96), 0, coverage=0.95, contrast=0.6).object_count > 0


@pytest.mark.parametrize(
    "relief", ["fractal", "domes", "pits", "ridges", "rings", "steps", "tilted"]
)
def test_depth_is_relative_and_the_top_is_sharper_than_the_bottom(relief: str) -> None:
    sharper = 0
    for seed in range(3):
        made = make(
            "surface", (128, 128), seed, 40, relief=relief, focus=1.0, blur_range_px=6, noise=0.005
        )
        assert made.depth is not None
        assert made.depth.dtype == np.float32
        assert made.depth.min() == 0
        assert made.depth.max() == 1
        detail = np.abs(ndimage.laplace(ndimage.gaussian_filter(made.image[0], 0.7)))
        top, bottom = made.depth > 0.7, made.depth < 0.3
        sharper += detail[top].mean() > detail[bottom].mean()
    assert sharper == 3


def test_zstack_is_sharpest_where_its_height_map_says() -> None:
    made = make("zstack", (128, 128), 4, 24, planes=11, step_um=0.5, noise=0.005, blur_range_px=10)
    assert made.image.shape == (11, 128, 128)
    assert made.pixel_size_um["Z"] == 0.5
    assert made.height_um is not None
    assert made.height_um.max() < 10 * 0.5
    detail = np.stack([ndimage.gaussian_filter(ndimage.laplace(p) ** 2, 5) for p in made.image])
    sharpest = detail.argmax(0) * 0.5
    assert np.corrcoef(sharpest.ravel(), made.height_um.ravel())[0, 1] > 0.9


def test_dark_objects_are_dark_and_bright_ones_bright() -> None:
    for polarity, sign in (("bright", 1), ("dark", -1)):
        made = make("nuclei", (128, 128), 0, 20, polarity=polarity)
        inside = made.instances > 0
        assert sign * (made.image[0][inside].mean() - made.image[0][~inside].mean()) > 0


@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("style", ["smear", "blood", "unstained"])
def test_brightfield_has_three_channels_or_one(style: str, colour: bool) -> None:
    made = make("brightfield", (96, 96), 0, 24, style=style, colour=colour)
    assert made.image.shape == (3 if colour else 1, 96, 96)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "aliens"}, "kind is 'aliens'; expected one of nuclei"),
        (
            {"kind": "rods", "whiskers": 3},
            "rods images have no parameter 'whiskers'; expected some of",
        ),
        ({"kind": "rods", "look": "sepia"}, "look is 'sepia'; expected one of fluorescence"),
        ({"kind": "nuclei", "noise": -1}, "noise is -1; expected a number"),
        ({"kind": "nuclei", "coverage": float("nan")}, "coverage is nan; expected a number"),
        ({"kind": "nuclei", "shape": (16, 100)}, "shape is .*at least 32 pixels"),
        ({"kind": "nuclei", "seed": -1}, "seed is -1"),
        ({"kind": "nuclei", "diameter": 0.5}, "diameter is 0.5; expected 3 to"),
    ],
)
def test_what_cannot_be_made_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(**arguments)  # type: ignore[arg-type]


def test_parameters_names_what_make_takes() -> None:
    assert {"arrangement", "aspect", "noise"} <= set(parameters("rods"))
    assert "diameter" not in parameters("rods")


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_made_while_a_model_trains(kind: str) -> None:
    """Far above what it takes (15 to 60 ms of one core), so that only a real slowdown fails."""
    make(kind, seed=0)
    start = time.process_time()
    for seed in range(2):
        make(kind, seed=seed)
    assert (time.process_time() - start) / 2 < 0.4
