"""What the fast loop teaches: classes drawn between the strokes, and their areas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.engine.improve.conftest import drive
from tests.engine.improve.test_warm import painted, setting

from dinoscope.engine.dataset import TrainingImage
from dinoscope.engine.dense import Runner
from dinoscope.engine.improve.guides import Guides, Teacher, match_areas, shifts_for
from dinoscope.engine.improve.training import Setting
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
    first, second, *_ = Guides(told, setting()).images
    truths = [np.asarray(g.targets["semantic"]) for g in (first, second)]
    assert all(set(np.unique(t)) == {0, 1} for t in truths)  # class 2 is never said
    assert not np.array_equal(*truths)
    strokes = np.asarray(told.images[0].targets["semantic"])
    known = strokes != 255
    assert np.array_equal(truths[0][known], strokes[known])


def test_guides_are_drawn_anew_from_what_the_network_says_too(
    full_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher is unsure everywhere; the network calls one half of a plane discs."""
    plane = painted(0)
    height, width = plane.pixels.shape[1:]
    pixels = np.zeros((3, height, width), np.float16)
    pixels[:, :, width // 2 :] = 1
    image = replace(plane, pixels=pixels)
    maps = np.full((3, height, width), [[[140]], [[115]], [[0]]], np.uint8)
    maps[1, : height // 8] = 200  # an eighth of the plane are discs, by the teacher
    monkeypatch.setattr("dinoscope.engine.improve.guides.WINDOW_PX", height // 2)
    own = setting()
    guides = Guides(Teacher((image,), (maps,)), own)
    strokes = np.asarray(plane.targets["semantic"])
    free = strokes == 255

    def discs() -> tuple[float, float]:
        truths = np.stack([np.asarray(g.targets["semantic"]) == 1 for g in guides.images])
        share = (truths & free).sum((0, 1)) / (len(truths) * free.sum(0))
        return float(share[: width // 2].mean()), float(share[width // 2 :].mean())

    def says(runner: Runner, part: TrainingImage, _: Setting) -> np.ndarray:
        right = np.asarray(part.pixels[0], np.float32)
        return np.stack([1 - right, right, 0 * right]).clip(1e-3, 1)

    left, right = discs()
    assert abs(left - right) < 0.1
    monkeypatch.setattr("dinoscope.engine.improve.guides._said", says)
    for _ in range(20):  # in turn, where the time does not suffice for all
        guides.draw_anew(full_model, own)
    left, right = discs()
    assert right > 4 * left
    for guide in guides.images:  # what is painted stays
        truth = np.asarray(guide.targets["semantic"])
        assert np.array_equal(truth[~free], strokes[~free])


def test_guides_are_drawn_anew_whenever_the_network_is_judged(full_model: Model) -> None:
    own = setting()
    guides = Guides(teacher(0.5), own)
    before = [np.array(g.targets["semantic"]) for g in guides.images]
    validate = guides.while_judging(lambda _: {"score": 0.5}, own)
    assert validate is not None
    assert validate(full_model) == {"score": 0.5}
    after = [np.asarray(g.targets["semantic"]) for g in guides.images]
    assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    alone = guides.while_judging(None, own)  # nothing was held out
    assert alone is not None
    assert alone(full_model) == {}
    nobody = Guides(Teacher(), own)
    assert nobody.images == []
    assert nobody.while_judging(None, own) is None


@pytest.mark.parametrize("areas", [(0.5, 0.3, 0.2), (0.05, 0.9, 0.05), (0.6, 0.4, 0.0)])
def test_shifts_give_classes_their_areas(areas: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    logs = rng.normal([[0.0], [1.0], [-2.0]], [[1.0], [0.2], [2.0]], (3, 20_000))
    shift = shifts_for(logs, np.array(areas))
    found = np.bincount((logs + shift[:, None]).argmax(0), minlength=3) / 20_000
    assert np.abs(found - areas).max() < 0.01
