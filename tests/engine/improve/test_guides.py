"""What the fast loop teaches: classes drawn between the strokes, and their areas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.engine.improve.conftest import drive
from tests.engine.improve.test_warm import painted, setting

from dinoscope.engine.dense import Runner
from dinoscope.engine.improve.guides import Teacher, match_areas, shifts_for
from dinoscope.models.model import Model


def teacher(share: float) -> Teacher:
    """Says of two planes that `share` of their pixels are discs."""
    images = tuple(painted(s) for s in range(2))
    maps = []
    for image in images:
        shape = image.pixels.shape[1:]
        second = np.zeros(shape, np.uint8)
        second[: round(share * shape[0])] = 200
        maps.append(np.stack([255 - second, second, np.zeros_like(second)]))
    return Teacher(images, tuple(maps), (1.0, 0.5, 1.0))


def share_of(model: Model, told: Teacher) -> float:
    """Share of the planes that a model calls discs."""
    own = setting()
    runner = Runner(model.eval(), own.device, own.autocast)
    with torch.no_grad():
        maps = [runner.dense_maps(i.pixels.astype(np.float32), ["semantic"]) for i in told.images]
    return float(np.mean([(m["semantic"].argmax(0) == 1).mean() for m in maps]))


def test_classes_get_the_areas_that_the_teacher_sees(full_model: Model) -> None:
    with torch.no_grad():  # random weights say much the same everywhere
        full_model.heads["semantic"].out.weight *= 6  # type: ignore[union-attr, operator]
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


@pytest.mark.parametrize(("surprise", "moves"), [(0.11, True), (0.2, False)])
def test_areas_that_held_out_strokes_speak_against_are_not_matched(
    full_model: Model, surprise: float, moves: bool
) -> None:
    bias = full_model.heads["semantic"].out.bias  # type: ignore[union-attr]
    kept = bias.clone()  # type: ignore[union-attr, operator]

    def validate(model: Model) -> dict[str, float]:
        return {"iou": 0.9, "log_loss": 0.1 if torch.equal(bias, kept) else surprise}  # type: ignore[arg-type]

    told = teacher(0.7)
    scores, _ = drive(match_areas(full_model, told, setting(), validate))
    assert scores["log_loss"] == (surprise if moves else 0.1)
    assert torch.equal(bias, kept) != moves  # type: ignore[arg-type]


def test_guides_are_dense_and_each_draw_differs() -> None:
    told = teacher(0.5)
    first, second, *_ = told.guides(0)
    truths = [np.asarray(g.targets["semantic"]) for g in (first, second)]
    assert all(set(np.unique(t)) == {0, 1} for t in truths)  # class 2 is never said
    assert not np.array_equal(*truths)
    strokes = np.asarray(told.images[0].targets["semantic"])
    known = strokes != 255
    assert np.array_equal(truths[0][known], strokes[known])


@pytest.mark.parametrize("areas", [(0.5, 0.3, 0.2), (0.05, 0.9, 0.05), (0.6, 0.4, 0.0)])
def test_shifts_give_classes_their_areas(areas: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    logs = rng.normal([[0.0], [1.0], [-2.0]], [[1.0], [0.2], [2.0]], (3, 20_000))
    shift = shifts_for(logs, np.array(areas))
    found = np.bincount((logs + shift[:, None]).argmax(0), minlength=3) / 20_000
    assert np.abs(found - areas).max() < 0.01
