"""What is measured of unlabelled cells, and a backbone that learns to tell it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import pretrain_cells
from benchmarks.descriptors import form_of, mask_of, measure, patch_maps
from benchmarks.train_embedded import SingleCells
from dinoscope.engine.dataset import ImageSet, TrainingImage
from dinoscope.models.checkpoint import load_model
from dinoscope.models.model import Model


def ellipse(side: int, high: float, wide: float, middle: tuple[float, float]) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    return ((y - middle[0]) / high) ** 2 + ((x - middle[1]) / wide) ** 2 <= 1


def test_the_object_in_the_middle_is_outlined_whatever_its_polarity() -> None:
    cell, other = ellipse(80, 14, 10, (38, 42)), ellipse(80, 12, 12, (12, 68))
    plane = 0.2 + 0.6 * (cell | other)
    for shown in (plane, 1 - plane):
        mask = mask_of(shown)
        assert mask is not None
        assert (mask & cell).sum() > 0.95 * cell.sum()
        assert (mask & ~cell).sum() < 0.1 * cell.sum()


@pytest.mark.parametrize("plane", [np.zeros((80, 80)), np.full((8, 8), 0.3)])
def test_where_nothing_is_nothing_is_outlined(plane: np.ndarray) -> None:
    assert mask_of(plane) is None


def test_a_form_stays_the_same_when_turned_and_mirrored() -> None:
    mask = ellipse(81, 22, 9, (40, 40))
    mask[30:36, 40:58] = True
    numbers = form_of(mask).numbers
    for other in (np.rot90(mask), mask[::-1], mask.T):
        np.testing.assert_allclose(form_of(other).numbers, numbers, rtol=0.03, atol=0.03)
    assert np.abs(form_of(ellipse(81, 14, 14, (40, 40))).numbers - numbers).max() > 0.3


def test_light_changes_brightness_and_texture_but_not_form() -> None:
    form = form_of(ellipse(112, 30, 20, (56, 56)))
    depth = torch.from_numpy(form.depth)[None]
    numbers = torch.from_numpy(form.numbers)[None]
    pixels = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    plain, lit = measure(pixels, depth, numbers), measure(2 * pixels + 0.1, depth, numbers)
    count = numbers.shape[1]
    assert torch.equal(plain[:, : count + 1], lit[:, : count + 1])
    levels = slice(count + 1, count + 4)
    torch.testing.assert_close(lit[:, levels], 2 * plain[:, levels] + 0.1)
    assert torch.isfinite(measure(torch.zeros_like(pixels), depth, numbers)).all()


def test_patches_point_to_the_middle_of_their_cell() -> None:
    form = form_of(ellipse(112, 30, 30, (40, 70)))
    maps = patch_maps(torch.rand(1, 3, 112, 112), torch.from_numpy(form.depth)[None], 14)
    assert maps.shape == (1, 7, 8, 8)
    assert maps[0, 0, 2, 5] == pytest.approx(2)  # all cell
    assert maps[0, 0, 7, 0] == 0  # none
    assert maps[0, 2, 1, 5] < -0.1 < 0.1 < maps[0, 2, 4, 5]


def _cells() -> SingleCells:
    rng = np.random.default_rng(0)
    images = []
    for number in range(12):
        mask = ellipse(40, rng.uniform(6, 15), rng.uniform(6, 15), (20, 20))
        pixels = (0.2 + 0.5 * mask + 0.02 * rng.standard_normal((3, 40, 40))).astype(np.float32)
        images.append(TrainingImage(str(number), str(number), pixels, {}))
    return SingleCells((), [ImageSet("cellcycle_ifc", images)], {}, {}, {})


def test_a_backbone_learns_what_cells_look_like(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Model.fresh("tiny-test", seed=0)
    pretrain_cells.initialise(model)
    before = model.backbone.vit.blocks[1].mlp.fc1.weight.detach().clone()
    found = pretrain_cells.Unlabelled(_cells(), "cellcycle_ifc", 0)
    pixels, depth, descriptors = found.draw(5)
    assert pixels.shape == (5, 3, 112, 112)
    assert depth.shape == (5, 112, 112)
    assert torch.isfinite(found.standard(descriptors)).all()
    rows = pretrain_cells.train(model, [found], 6, 1e-3, tmp_path / "d.dinoscope")
    assert np.isfinite(rows[-1]["told_cellcycle_ifc"])
    assert not torch.equal(before, model.backbone.vit.blocks[1].mlp.fc1.weight)
    assert (tmp_path / "d.csv").read_text().startswith("minutes,step,told_cellcycle_ifc")
    again = load_model(tmp_path / "d.dinoscope", device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(
            again.encode(pixels).patch_tokens, model.encode(pixels).patch_tokens
        )


def test_mimetic_attention_begins_with_like_tokens() -> None:
    torch.manual_seed(0)
    model = Model.fresh("tiny-test", seed=0)
    pretrain_cells.initialise(model)
    attention = model.backbone.vit.blocks[0].attn
    dim = attention.proj.weight.shape[0]
    queries, keys, values = attention.qkv.weight.detach().split(dim)
    own = dim // attention.num_heads
    for head in range(attention.num_heads):
        part = slice(head * own, (head + 1) * own)
        assert (queries[part].T @ keys[part]).trace() > 0.2 * dim
    assert (attention.proj.weight.detach() @ values).trace() < -0.2 * dim
