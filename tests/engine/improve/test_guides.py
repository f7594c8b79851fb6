"""What the fast loop teaches: classes drawn between the strokes, and their areas."""

from __future__ import annotations

import numpy as np
import torch
from tests.engine.improve.conftest import drive
from tests.engine.improve.test_warm import painted, setting

from dinoscope.engine.dense import Runner
from dinoscope.engine.improve.guides import Teacher, match_areas
from dinoscope.models.model import Model


def teacher(share: float) -> Teacher:
    """Says of two planes that `share` of their pixels are discs."""
    images = tuple(painted(s) for s in range(2))
    maps = []
    for image in images:
        shape = image.pixels.shape[1:]
        second = np.zeros(shape, np.uint8)
        second[: round(share * shape[0])] = 200
        maps.append(np.stack([255 - second, second]))
    return Teacher(images, tuple(maps), (1.0, 0.5))


def share_of(model: Model, told: Teacher) -> float:
    """Share of the planes that a model calls discs."""
    own = setting()
    runner = Runner(model.eval(), own.device, own.autocast)
    with torch.no_grad():
        maps = [runner.dense_maps(i.pixels.astype(np.float32), ["semantic"]) for i in told.images]
    return float(np.mean([m["semantic"].argmax(0).mean() for m in maps]))


def test_classes_get_the_areas_that_the_teacher_sees(full_model: Model) -> None:
    for share in (0.1, 0.3, 0.8):
        told = teacher(share)
        assert abs(told.areas()[1] - share) < 0.01
        kept = {n: p.clone() for n, p in full_model.named_parameters()}
        drive(match_areas(full_model, told, setting()))
        assert abs(share_of(full_model, told) - share) < 0.05
        changed = {n for n, p in full_model.named_parameters() if not torch.equal(p, kept[n])}
        assert changed == {"heads.semantic.out.bias"}


def test_without_a_teacher_nothing_changes(full_model: Model) -> None:
    kept = full_model.heads["semantic"].out.bias.clone()  # type: ignore[union-attr, operator]
    drive(match_areas(full_model, Teacher(), setting()))
    assert torch.equal(full_model.heads["semantic"].out.bias, kept)  # type: ignore[union-attr, arg-type]


def test_guides_are_dense_and_each_draw_differs() -> None:
    told = teacher(0.5)
    first, second, *_ = told.guides(0)
    truths = [np.asarray(g.targets["semantic"]) for g in (first, second)]
    assert all(set(np.unique(t)) == {0, 1} for t in truths)
    assert not np.array_equal(*truths)
    strokes = np.asarray(told.images[0].targets["semantic"])
    known = strokes != 255
    assert np.array_equal(truths[0][known], strokes[known])
