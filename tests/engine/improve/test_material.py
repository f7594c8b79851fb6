"""What is annotated becomes truths in which what nobody said is unknown."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tests.engine.conftest import discs

from dinoscope.arrays.normalize import Normalization
from dinoscope.engine.augment import Augmentation, make_crop, sparse_pixels
from dinoscope.engine.dataset import TrainingImage
from dinoscope.engine.improve.guides import guided
from dinoscope.engine.improve.holdout import hold_out
from dinoscope.engine.improve.material import gather, training_images
from dinoscope.engine.improve.scores import judged_window, partial_precision
from dinoscope.errors import InputError
from dinoscope.project import Project
from dinoscope.types import ImageInput

PERCENTILE = Normalization()


def known(image: TrainingImage) -> np.ndarray:
    return np.asarray(image.targets["semantic"]) != 255


def test_strokes_become_classes_and_the_rest_is_unknown(
    make_project: Callable[..., Project],
) -> None:
    project = make_project(1)
    (plane,) = gather(project, PERCENTILE).planes
    truth = np.asarray(plane.image.targets["semantic"])
    assert set(np.unique(truth)) == {0, 1, 255}
    assert known(plane.image).sum() == 400
    assert gather(project, PERCENTILE).tasks == ("semantic",)


def test_strokes_of_one_class_are_nothing_to_learn_from(
    make_project: Callable[..., Project],
) -> None:
    project = make_project(1, strokes=0)
    with pytest.raises(InputError, match="nothing that can be learned from"):
        gather(project, PERCENTILE)
    source = next(iter(project.sources))
    project.record(source, (), "paint", np.arange(60), 2)
    with pytest.raises(InputError, match="all of the class 'disc'"):
        gather(project, PERCENTILE)


def test_zero_is_background_only_inside_an_annotated_area(
    make_project: Callable[..., Project],
) -> None:
    project = make_project(1, strokes=0)
    source = next(iter(project.sources))
    _, ids = discs(0)
    flat = np.flatnonzero(ids == 3)
    project.record(source, (), "draw", flat, 3, layer="objects")
    project.record(source, (), "paint", np.arange(30), 1)
    truth = np.asarray(gather(project, PERCENTILE).planes[0].image.targets["instance"])
    assert (truth == 3).sum() == len(flat)
    assert (truth == 0).sum() == 30  # painted as background
    square = [[60, 60], [60, 100], [100, 100], [100, 60]]
    project.set_area(source, (), [square])
    inside = gather(project, PERCENTILE).planes[0].image.targets["instance"]
    assert (np.asarray(inside) == 0).sum() > 1000
    project.set_complete(source, (), True)
    assert (np.asarray(gather(project, PERCENTILE).planes[0].image.targets["instance"]) >= 0).all()


def test_depth_and_classes_are_found(make_project: Callable[..., Project]) -> None:
    project = make_project(2, strokes=0)
    first, second = project.sources
    _, ids = discs(0)
    project.record(first, (), "draw", np.flatnonzero(ids), ids[ids > 0], layer="objects")
    project.set_object_classes(first, (), {1: 1, 2: 2, 3: 2, 99: 2})
    depth = np.full(ids.shape, np.nan, np.float32)
    depth[40:] = np.linspace(0, 1, 80)[:, None]
    project.set_depth(second, (), depth)
    project.set_image_class(second, (), 2)
    found = gather(project, PERCENTILE)
    assert set(found.tasks) == {"instance", "depth", "classification"}
    assert found.named == ("background", "disc")
    boxes = [i for i in training_images(found.planes) if "#" in i.name]
    assert [box.targets["classification"] for box in boxes] == [0, 1, 1]
    assert all(12 < min(box.pixels.shape[1:]) < 40 for box in boxes)


def test_a_stack_is_normalised_as_a_whole(make_project: Callable[..., Project]) -> None:
    project = make_project(1)
    pixels = np.stack([discs(0)[0], discs(1)[0] // 3])
    image = ImageInput(pixels, "ZYX", {}, "stack")
    stack = project.add_source(image)
    project.record(stack, (1,), "paint", np.arange(500), 1 + np.arange(500) % 2)
    found = gather(project, PERCENTILE, {stack: image})
    plane = next(p for p in found.planes if p.source == stack)
    assert plane.index == (1,)
    assert float(plane.image.pixels.max()) < 0.6


def test_an_image_that_is_not_there_is_said_and_the_others_are_used(
    make_project: Callable[..., Project],
) -> None:
    project = make_project(1)
    image = ImageInput(discs(7)[0], "YX", {}, "gone")
    gone = project.add_source(image)
    project.record(gone, (), "paint", np.arange(50), 2)
    found = gather(project, PERCENTILE)
    assert len(found.planes) == 1
    assert "gone is left out" in found.problems[0]


def test_whole_images_are_held_out_where_there_are_several(
    make_project: Callable[..., Project],
) -> None:
    material = gather(make_project(5), PERCENTILE)
    found = hold_out(material, 0)
    (part,) = found.parts
    assert "annotated images, held out" in found.text
    assert not {p.source for p in part.training} & {p.source for p in part.held}
    assert len(part.training) + len(part.held) == 5
    assert [p.key for p in hold_out(material, 0).parts[0].held] == [p.key for p in part.held]


def test_regions_are_held_out_of_a_single_plane_and_share_no_pixel(
    make_project: Callable[..., Project],
) -> None:
    material = gather(make_project(1, strokes=4000), PERCENTILE)
    found = hold_out(material, 0)
    (part,) = found.parts
    assert "regions, held out" in found.text
    training, held = known(part.training[0].image), known(part.held[0].image)
    assert not (training & held).any()
    assert (training | held).sum() == 4000
    assert 0.1 < held.sum() / 4000 < 0.45


def test_with_too_little_every_region_judges_once(make_project: Callable[..., Project]) -> None:
    found = hold_out(gather(make_project(1, strokes=80), PERCENTILE), 0)
    assert found.crossed
    assert "cross-validated" in found.text
    judged = sum(known(p.held[0].image).astype(int) for p in found.parts)
    assert int(judged.max()) == 1
    assert int(judged.sum()) == 80


def test_an_object_across_the_edge_of_a_region_judges_and_teaches_nothing(
    make_project: Callable[..., Project],
) -> None:
    project = make_project(1, strokes=0)
    source = next(iter(project.sources))
    _, ids = discs(0, count=9)
    project.record(source, (), "draw", np.flatnonzero(ids), ids[ids > 0], layer="objects")
    project.set_complete(source, (), True)
    for part in hold_out(gather(project, PERCENTILE), 0).parts:
        training = np.asarray(part.training[0].image.targets["instance"])
        held = np.asarray(part.held[0].image.targets["instance"])
        assert not set(np.unique(training[training > 0])) & set(np.unique(held[held > 0]))


def test_objects_that_nobody_looked_at_teach_nothing(make_project: Callable[..., Project]) -> None:
    project = make_project(1)
    source = next(iter(project.sources))
    _, ids = discs(0, count=9)
    project.record(source, (), "paint", np.flatnonzero(ids), ids[ids > 0], layer="objects")
    project.add_found(source, (), ids)
    assert gather(project, PERCENTILE).tasks == ("semantic",)
    project.set_complete(source, (), True)
    assert set(gather(project, PERCENTILE).tasks) == {"semantic", "instance"}


def test_objects_on_unknown_pixels_are_no_errors() -> None:
    truth = np.full((6, 10), -1, np.int32)
    truth[:3] = 0
    truth[0:2, 0:3] = 4
    predicted = np.zeros((6, 10), np.int64)
    predicted[0:2, 0:3] = 1
    predicted[4:6, 5:9] = 2
    assert partial_precision(truth, predicted) == 1.0
    predicted[0:2, 6:9] = 3
    assert partial_precision(truth, predicted) == 0.5
    assert partial_precision(np.zeros((6, 10), np.int32), predicted) is None


def test_what_is_judged_is_cut_out_with_its_surroundings() -> None:
    truth = np.full((300, 400), 255, np.uint8)
    truth[150:160, 200:210] = 1
    image = TrainingImage("a", "a", np.zeros((3, 300, 400), np.float16), {"semantic": truth})
    cut = judged_window(image)
    assert cut.pixels.shape == (3, 122, 122)
    assert (np.asarray(cut.targets["semantic"]) == 1).sum() == 100


def test_crops_of_strokes_are_centred_on_them() -> None:
    truth = np.full((500, 500), 255, np.uint8)
    truth[30:34, 400:404] = 0
    image = TrainingImage("a", "a", np.zeros((3, 500, 500), np.float16), {"semantic": truth})
    assert sparse_pixels(truth) is not None
    assert sparse_pixels(np.zeros((9, 9), np.uint8)) is None
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(40):
        _, targets = make_crop(image, rng, 112, 1.0, Augmentation(intensity=0), None)
        seen += bool((targets["semantic"] == 0).any())
    assert seen >= 28  # three in four, by design; at random places one in twenty


def test_a_guide_draws_what_the_fast_loop_says_and_strokes_overrule_it() -> None:
    strokes = np.full((1, 4000), 255, np.uint8)
    strokes[0, -1] = 2
    image = TrainingImage("a", "a", np.zeros((3, 1, 4000), np.float16), {"semantic": strokes})
    maps = np.zeros((3, 1, 4000), np.float32)
    maps[:, 0, :2000] = np.array([[0.2], [0.7], [0.1]])
    maps[1, 0, 2000:] = 1
    truth = np.asarray(guided(image, maps, np.random.default_rng(0)).targets["semantic"])
    shares = np.bincount(truth[0, :2000], minlength=3) / 2000
    assert np.abs(shares - [0.2, 0.7, 0.1]).max() < 0.03
    assert (truth[0, 2000:-1] == 1).all()
    assert truth[0, -1] == 2
