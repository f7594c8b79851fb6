"""What was tried for packed rods: each part does what it says, and a new one nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks.rod_approaches import summary
from benchmarks.rod_parts import (
    ACROSS,
    DIRECTIONS,
    LEAST_SPREAD,
    MOST,
    NEIGHBOURHOODS,
    RADIUS,
    contact_learned,
    extend,
    line_filters,
    local_contrast,
)
from dinoscope.models.model import Model
from dinoscope.tasks.base import task


def model() -> Model:
    return Model.fresh("tiny-test", {"instance": task("instance").head_spec(())}).eval()


def pixels(height: int = 84, width: int = 126) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "parts",
    [(), ("context",), ("contrast",), ("contrast", "lines"), ("contact", "context", "contrast")],
)
def test_new_parts_change_no_map(parts: tuple[str, ...]) -> None:
    plain, extended = model(), extend(model(), parts).eval()
    with torch.no_grad():
        found, before = extended(pixels())["instance"], plain(pixels())["instance"]
    torch.testing.assert_close(found[:, :4], before, atol=1e-5, rtol=1e-5)
    assert found.shape[1] == (5 if "contact" in parts else 4)


@pytest.mark.parametrize("parts", [("context",), ("contrast",), ("contrast", "lines")])
def test_parts_learn(parts: tuple[str, ...]) -> None:
    known = {name for name, _ in model().named_parameters()}
    extended = extend(model(), parts).train()
    extended(pixels())["instance"].square().mean().backward()
    new = {n: p for n, p in extended.named_parameters() if n not in known}
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in new.values())


@pytest.mark.parametrize(
    ("parts", "told"), [(("lines",), "add the part contrast"), (("colour",), "called colour")]
)
def test_parts_that_cannot_be_added_are_named(parts: tuple[str, ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        extend(model(), parts)


def test_contrast_is_each_pixel_beside_the_mean_and_spread_of_its_square() -> None:
    x = pixels(112, 168)[:1]
    grey = x[0].mean(0).numpy().astype(np.float64)
    found = F.pixel_shuffle(local_contrast(x), 2)[0].numpy()
    assert found.shape == (len(NEIGHBOURHOODS), *grey.shape)
    for side, maps in zip(NEIGHBOURHOODS, found, strict=True):
        for y, at in ((60, 70), (61, 71), (2, 3), (111, 167)):
            half = side // 2
            rows = slice(max(0, 2 * (y // 2 - half)), 2 * (y // 2 + half + 1))
            columns = slice(max(0, 2 * (at // 2 - half)), 2 * (at // 2 + half + 1))
            around = grey[rows, columns]
            spread = np.sqrt(around.var() + LEAST_SPREAD**2)
            expected = np.clip((grey[y, at] - around.mean()) / spread, -MOST, MOST)
            assert maps[y, at] == pytest.approx(expected, abs=1e-3)


def test_dim_and_bright_places_look_alike() -> None:
    x = pixels(112, 168)
    bright, dim = local_contrast(x), local_contrast(0.3 + 0.5 * x)
    torch.testing.assert_close(bright, dim, atol=0.15, rtol=0.1)
    noise = 0.002 * torch.randn(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    assert local_contrast(0.1 + noise).abs().max() < 0.5


def line(angle: float, noise: float = 0.0, side: int = 65) -> torch.Tensor:
    """A bright line through the middle, two steps wide."""
    steps = torch.arange(side, dtype=torch.float32) - side // 2
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    off = y * math.cos(angle) - x * math.sin(angle)
    grain = torch.randn(side, side, generator=torch.Generator().manual_seed(0))
    return (torch.exp(-((off / 1.5) ** 2) / 2) + noise * grain)[None, None]


def test_the_filter_of_its_direction_answers_most() -> None:
    assert line_filters().shape == (len(ACROSS) * DIRECTIONS, 1, 2 * RADIUS + 1, 2 * RADIUS + 1)
    assert F.conv2d(torch.ones(1, 1, 65, 65), line_filters()).abs().max() < 1e-4
    for number in range(DIRECTIONS):
        found = F.conv2d(line(math.pi * number / DIRECTIONS), line_filters(), padding=RADIUS)
        middle = found[0, :DIRECTIONS, 32, 32]
        assert int(middle.argmax()) == number
        assert middle[number] > 3 * middle[(number + DIRECTIONS // 2) % DIRECTIONS].abs()


def test_a_line_that_noise_hides_is_found() -> None:
    shown = line(0.0, noise=1.0)
    found = F.conv2d(shown, line_filters()[:1], padding=RADIUS)
    inside = slice(RADIUS, -RADIUS)
    near, by_pixel = (
        (maps[0, 0, inside, inside].argmax(0) + RADIUS - 32).abs().le(1).float().mean()
        for maps in (found, shown)
    )
    assert near > 0.9
    assert by_pixel < 0.5


def test_the_contact_map_learns_where_objects_touch() -> None:
    known = task("instance")
    ids = np.kron([[1, 2]], np.ones((40, 20), np.int32))
    target = torch.from_numpy(known.targets(ids, 0.0))[None]
    raw = torch.zeros(1, 5, 40, 40)
    raw[:, 4] = -8
    raw[:, 4, :, 17:23] = 8
    wrong = raw.clone()
    wrong[:, 4] *= -1
    with contact_learned(alone=True):
        right, other = (float(known.loss(r, target, {})) for r in (raw, wrong))
        assert right < 0.5 < other
        assert known.activate(raw).shape == (1, 5, 40, 40)
        assert float(known.activate(raw)[0, 4, 20, 20]) > 0.99
    with contact_learned(alone=False):
        both = float(known.loss(raw, target, {}))
    assert both == pytest.approx(right + float(known.loss(raw[:, :4], target, {})), rel=1e-5)
    assert known.activate(raw[:, :4]).shape[1] == 4


def test_a_summary_has_means_by_look_and_power() -> None:
    rows = [{"look": "phase", "power 0": 0.2}, {"look": "membrane", "power 0": 0.6}]
    assert summary(rows) == {
        "all": {"power 0": 0.4},
        "membrane": {"power 0": 0.6},
        "phase": {"power 0": 0.2},
    }
