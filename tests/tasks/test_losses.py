"""Losses fall when outputs approach the truth, and unknown pixels count for nothing."""

from __future__ import annotations

import numpy as np
import pytest

from dinoscope.models.device import import_torch

torch = import_torch()

from dinoscope.tasks.base import task  # noqa: E402
from dinoscope.tasks.instance import CONTACT_WEIGHT, contact_lines, soft_dice  # noqa: E402
from dinoscope.tasks.semantic import pixel_counts  # noqa: E402


def _ids() -> np.ndarray:
    ids = np.zeros((28, 28), np.int32)
    ids[3:12, 3:12] = 1
    ids[12:22, 5:15] = 2
    return ids


TRUTHS = {
    "instance": _ids(),
    "semantic": (_ids() > 0).astype(np.uint8),
    "depth": np.linspace(0, 1, 28 * 28, dtype=np.float32).reshape(28, 28),
}


@pytest.mark.parametrize("name", ["instance", "semantic", "depth"])
def test_descending_the_loss_reaches_the_truth(name: str) -> None:
    unit = task(name)
    target = torch.from_numpy(unit.targets(TRUTHS[name], 0.5))[None]
    channels = {"instance": 4, "semantic": 2, "depth": 1}[name]
    raw = torch.full((1, channels, 28, 28), 0.3, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.02 if name == "depth" else 0.2)
    first = float(unit.loss(raw, target, {}).detach())
    for _ in range(160):
        optimizer.zero_grad()
        loss = unit.loss(raw, target, {})
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.25 * first
    maps = unit.activate(raw.detach())[0].numpy()
    if name == "instance":
        assert np.array_equal(maps[0] > 0.5, TRUTHS[name] > 0)
        assert abs(np.median(maps[3][TRUTHS[name] > 0]) - 0.5) < 0.1
    elif name == "semantic":
        assert np.array_equal(maps.argmax(0), TRUTHS[name])
    else:
        assert np.abs(maps[0] - TRUTHS[name]).mean() < 0.05


@pytest.mark.parametrize(
    ("name", "unknown"), [("instance", -1), ("semantic", 255), ("depth", np.nan)]
)
def test_unknown_pixels_get_no_gradient(name: str, unknown: float) -> None:
    truth = TRUTHS[name].copy()
    truth[:, 14:] = unknown
    unit = task(name)
    target = torch.from_numpy(unit.targets(truth, None))[None]
    raw = torch.zeros(1, {"instance": 4, "semantic": 2, "depth": 1}[name], 28, 28) + 0.5
    raw.requires_grad_(True)
    unit.loss(raw, target, {}).backward()
    assert raw.grad is not None
    assert raw.grad[..., 14:].abs().max() == 0
    assert raw.grad[..., :14].abs().max() > 0


def test_contact_lines_lie_where_objects_touch_and_nowhere_else() -> None:
    ids = np.zeros((1, 60, 60), np.int32)
    ids[0, 10:50, 10:30] = 1
    ids[0, 10:50, 30:50] = 2
    maps = torch.from_numpy(task("instance").targets(ids[0], None))[None]
    lines = contact_lines(maps[:, 0], maps[:, 2])[0].numpy()
    assert set(np.unique(lines)) == {0.0, 1.0}
    assert lines[20:40, 29:31].all()
    assert not lines[:, :24].any()
    assert not lines[:, 36:].any()
    alone = torch.from_numpy(task("instance").targets((ids[0] == 1).astype(np.int32), None))[None]
    assert not contact_lines(alone[:, 0], alone[:, 2]).any()


def test_a_missed_contact_line_costs_more_than_a_missed_rim() -> None:
    unit = task("instance")
    ids = np.zeros((60, 60), np.int32)
    ids[10:50, 10:30] = 1
    ids[10:50, 30:50] = 2
    target = torch.from_numpy(unit.targets(ids, None))[None]
    right = torch.cat([target[:, :3].clamp(0.02, 0.98).logit(), torch.zeros(1, 1, 60, 60)], 1)

    def cost(columns: slice) -> float:
        wrong = right.clone()
        wrong[:, 2, 20:40, columns] = 4.0  # as in the middle of an object
        return float(unit.loss(wrong, target, {}) - unit.loss(right, target, {}))

    assert cost(slice(29, 31)) == pytest.approx((1 + CONTACT_WEIGHT) * 2 * cost(slice(10, 11)))


@pytest.mark.parametrize("name", ["semantic", "depth"])
def test_a_crop_without_any_truth_has_loss_zero(name: str) -> None:
    unit = task(name)
    truth = np.full((1, 14, 14), 255 if name == "semantic" else np.nan, np.float32)
    target = torch.from_numpy(truth.astype(np.int64) if name == "semantic" else truth)
    raw = torch.rand(1, 2 if name == "semantic" else 1, 14, 14, requires_grad=True)
    assert float(unit.loss(raw, target, {}).detach()) == 0


def test_class_weights_change_the_loss_and_smoothing_bounds_it() -> None:
    unit = task("classification")
    raw = torch.tensor([[4.0, 0.0], [4.0, 0.0]])
    target = torch.tensor([0, 1])
    plain = float(unit.loss(raw, target, {"label_smoothing": 0}))
    weighted = float(unit.loss(raw, target, {"label_smoothing": 0, "class_weights": [0.1, 1.0]}))
    assert weighted > plain > 1


def test_classes_count_as_told_where_little_is_painted_and_alike_elsewhere() -> None:
    """With equal strokes of two classes and nothing to tell them apart, the loss is least where the
    probability of a class is its weight's share."""
    unit = task("semantic")
    settings = {"stroke_weights": [1.0, 0.25]}
    painted = torch.full((1, 28, 28), 255)
    painted[0, 2, :14], painted[0, 8, :14] = 0, 1
    dense = (torch.arange(28 * 28).view(1, 28, 28) % 2).long()

    def cost(target: torch.Tensor, second: float) -> float:
        raw = torch.tensor([1 - second, second]).log().view(1, 2, 1, 1).expand(1, 2, 28, 28)
        return float(unit.loss(raw, target, settings))

    shares = torch.linspace(0.05, 0.95, 19).tolist()
    assert min(shares, key=lambda s: cost(painted, s)) < 0.35
    assert min(shares, key=lambda s: cost(dense, s)) == pytest.approx(0.5, abs=0.06)
    assert cost(dense, 0.3) == pytest.approx(
        float(
            unit.loss(
                torch.tensor([0.7, 0.3]).log().view(1, 2, 1, 1).expand(1, 2, 28, 28), dense, {}
            )
        )
    )


def test_painted_crops_count_as_much_as_those_that_are_known_throughout() -> None:
    """Of one crop with a stroke of class 1 and one that is class 0 throughout, the cross-entropy is
    least at one half."""
    target = torch.zeros(2, 28, 28, dtype=torch.long)
    target[1] = 255
    target[1, 3, :20] = 1
    counts = pixel_counts(target, {})
    assert float(counts[0].sum()) == pytest.approx(float(counts[1].sum()))
    assert torch.equal(pixel_counts(target[:1], {}), torch.ones(1, 28, 28))
    assert float(pixel_counts(target[1:], {}).max()) == 1


def test_overlap_of_pixels_that_count_more_stays_between_0_and_1() -> None:
    truth = (torch.rand(2, 20, 20) > 0.5).float()
    counts = 50 * torch.rand(2, 20, 20)
    assert float(soft_dice(truth, truth, counts)) == pytest.approx(0, abs=1e-6)
    assert 0.99 < float(soft_dice(1 - truth, truth, counts)) <= 1
    doubled = torch.cat([truth, truth[..., :5]], -1)
    guess = torch.rand(2, 20, 20)
    counts = torch.ones(2, 20, 20)
    counts[..., :5] = 2
    again = torch.cat([guess, guess[..., :5]], -1)
    assert float(soft_dice(guess, truth, counts)) == pytest.approx(
        float(soft_dice(again, doubled)), abs=1e-6
    )
