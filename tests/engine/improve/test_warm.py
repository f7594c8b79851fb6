"""New heads learn from single pixels before the decoder is trained."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from tests.engine.conftest import discs
from tests.engine.improve.conftest import drive

from dinoscope.config import ImproveOptions
from dinoscope.engine.batches import BatchSource, CropPlan
from dinoscope.engine.dataset import ImageSet, TrainingImage
from dinoscope.engine.improve.training import Setting
from dinoscope.engine.improve.warm import Cells, head_of_cells, warm_head
from dinoscope.models.model import Model
from dinoscope.tasks.base import IGNORE, task


def painted(seed: int) -> TrainingImage:
    """Discs of which one pixel in eight is annotated."""
    pixels, ids = discs(seed)
    truth = (ids > 0).astype(np.uint8)
    truth[np.random.default_rng(seed).random(truth.shape) > 0.125] = IGNORE
    scaled = (pixels - pixels.min()) / (pixels.max() - pixels.min())
    whole = np.repeat(scaled[None], 3, 0).astype(np.float16)
    return TrainingImage(str(seed), str(seed), whole, {"semantic": truth})


def setting(**options: object) -> Setting:
    own = ImproveOptions(batch_size=4, crop_px=56, device="cpu", threads=1, **options)  # type: ignore[arg-type]
    ticks = itertools.count()
    return Setting(
        CropPlan(56, None), own, ("background", "disc"), "cpu", None, lambda: next(ticks) * 1.0
    )


def test_cells_are_what_the_head_sees(full_model: Model) -> None:
    head = full_model.heads["semantic"]
    joined = torch.randn(2, 48, 6, 7)
    with torch.no_grad():
        whole = head(joined)
    truth = torch.full((2, 12, 14), IGNORE)
    truth[0, 3, 4], truth[1, 11, 13] = 1, 0
    cells = Cells(0)
    cells.add(joined, truth, (truth != IGNORE).float())
    near, truths, counts = cells.whole()
    assert truths.tolist() == [[IGNORE, IGNORE, 1, IGNORE], [IGNORE, IGNORE, IGNORE, 0]]
    assert counts.sum(1).tolist() == [1, 1]
    with torch.no_grad():
        raw = head_of_cells(head, near)[0]
    assert torch.allclose(raw[:, 0, 2], whole[0, :, 3, 4], atol=1e-5)
    assert torch.allclose(raw[:, 1, 3], whole[1, :, 11, 13], atol=1e-5)


def test_the_head_alone_learns_and_nothing_else_changes(full_model: Model) -> None:
    images = ImageSet("discs", [painted(s) for s in range(3)])
    own = setting(steps=60)
    batch = BatchSource([images], own.plan, 8, 9)[0]
    _, truth = batch.truths["semantic"]

    def cost() -> float:
        with torch.no_grad():
            raw = full_model(batch.pixels)["semantic"]
            return float(task("semantic").loss(raw, truth, {}))

    before = cost()
    kept = {n: p.clone() for n, p in full_model.named_parameters()}
    drive(warm_head(full_model, [images], own, None))
    changed = {n for n, p in full_model.named_parameters() if not torch.equal(p, kept[n])}
    assert changed == {n for n in kept if n.startswith("heads.semantic.")}
    assert cost() < 0.8 * before


def test_it_takes_its_share_of_the_time_and_no_more(full_model: Model) -> None:
    images = ImageSet("discs", [painted(0)])
    spent, events = drive(warm_head(full_model, [images], setting(), 400.0))
    assert 30 <= spent <= 0.15 * 400 + 5
    assert {e.step for e in events} == {"prepare"}


def test_without_annotated_pixels_nothing_happens(full_model: Model) -> None:
    image = painted(0)
    image.targets["semantic"][:] = IGNORE  # type: ignore[index]
    kept = {n: p.clone() for n, p in full_model.named_parameters()}
    drive(warm_head(full_model, [ImageSet("none", [image])], setting(steps=8), None))
    assert all(torch.equal(p, kept[n]) for n, p in full_model.named_parameters())
