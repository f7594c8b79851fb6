"""Learning from images without labels: what is counted, what is left out, what must not happen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dinoscope.config import TrainOptions, UnlabelledOptions
from dinoscope.engine.batches import CropPlan
from dinoscope.engine.consistency import Consistency, confident_share, mixed, pseudo_truth
from dinoscope.engine.dataset import TaskSource, TrainingImage, sources_from_folders
from dinoscope.engine.distill import Distillation, masked_tokens, random_masks, token_spread
from dinoscope.engine.train import TrainSummary, train
from dinoscope.engine.unlabelled import Teacher, Unlabelled, Views, ramp, without
from dinoscope.errors import InputError
from dinoscope.models.adapter import add_lora
from dinoscope.models.model import Model
from dinoscope.tasks.base import task
from dinoscope.types import ImageInput, Progress

from .conftest import HEADS, discs

OPTIONS = UnlabelledOptions("consistency", ramp_up=0.0, threshold=0.5, crops=3)


def _planes(count: int = 4) -> list[TrainingImage]:
    planes = []
    for seed in range(count):
        image = np.repeat(discs(seed)[0][None] / np.float32(255), 3, 0)
        planes.append(TrainingImage(f"u{seed}", f"u{seed}", image.astype(np.float16), {}))
    return planes


def _views(batch_size: int = 3) -> Views:
    return Views(_planes(), CropPlan(112, None), batch_size, seed=5)


def _tuned() -> Model:
    model = Model.fresh("tiny-test", HEADS, tile=(112, 140))
    add_lora(model, rank=4, blocks=2)
    return model


def test_two_views_share_their_geometry_and_depend_on_the_step_alone() -> None:
    views = _views()
    weak, strong = views(7)
    again, _ = views(7)
    assert torch.equal(weak, again)
    assert not torch.equal(weak, views(8)[0])
    for a, b in zip(weak, strong, strict=True):
        # Intensity may be inverted, never moved: edges stay where they are.
        together = np.corrcoef(a.mean(0).ravel(), b.mean(0).ravel())[0, 1]
        assert abs(together) > 0.5


def test_the_weight_rises_from_nothing_to_one() -> None:
    values = [ramp(share, 0.4) for share in (0.0, 0.1, 0.2, 0.3, 0.4, 0.9)]
    assert values[0] < 0.01
    assert values == sorted(values)
    assert values[-2:] == [1.0, 1.0]
    assert ramp(0.0, 0.0) == 1.0


def test_a_teacher_is_the_moving_average() -> None:
    teacher = Teacher(0.5)
    teacher.begin({"w": torch.zeros(2)})
    for _ in range(60):
        teacher.update({"w": torch.ones(2)})
    assert torch.allclose(teacher.tensors["w"], torch.ones(2), atol=1e-3)
    still = Teacher(0.99)
    still.steps = 10_000
    still.begin({"w": torch.zeros(2)})
    still.update({"w": torch.ones(2)})
    assert torch.allclose(still.tensors["w"], torch.full((2,), 0.01))


def test_only_confident_pixels_become_truth() -> None:
    maps = torch.tensor([0.95, 0.04, 0.01, 0.5, 0.3, 0.2]).view(1, 2, 3).permute(0, 2, 1)[..., None]
    truth = pseudo_truth("semantic", maps, 0.9)
    assert truth.flatten().tolist() == [0, 255]
    assert float(confident_share("semantic", truth)) == 0.5
    maps = torch.zeros(1, 4, 1, 4)
    maps[0, 0, 0] = torch.tensor([0.95, 0.6, 0.3, 0.02])
    maps[0, 1:3] = 0.7
    truth = pseudo_truth("instance", maps, 0.9)
    assert truth[0, 4, 0].tolist() == [1, 0, 0, 1]
    assert truth[0, 0, 0].tolist() == [1, 1, 0, 0]
    assert truth[0, 1, 0, 3] == 0  # no centre outside of objects
    assert torch.isnan(truth[0, 3]).all()
    raw = torch.randn(1, 4, 1, 4)
    other = raw.clone()
    other[..., 1:3] += 9  # where the teacher is not sure, the student may say what it likes
    loss = task("instance").loss
    assert torch.allclose(loss(raw, truth, {}), loss(other, truth, {}))


def test_mixing_moves_maps_with_their_pixels() -> None:
    code = torch.arange(6.0).view(6, 1, 1)
    pixels = code.expand(6, 28, 28)[:, None].repeat(1, 3, 1, 1)
    targets = {
        "semantic": code.expand(6, 28, 28).long(),
        "instance": pixels[:, :1].repeat(1, 5, 1, 1),
    }
    out, maps = mixed(pixels, targets, np.random.default_rng(0))
    assert torch.equal(out[:, 0].long(), maps["semantic"])
    assert torch.equal(out[:, 0], maps["instance"][:, 2])
    changed = [float((o != p).float().mean()) for o, p in zip(out, pixels, strict=True)]
    assert 0 < sum(c > 0 for c in changed) < 6
    assert all(c == 0 or 0.4 < c < 0.6 for c in changed)


@pytest.mark.parametrize("kind", ["semantic", "instance"])
def test_consistency_pulls_the_student_to_a_confident_teacher(kind: str) -> None:
    torch.manual_seed(0)
    model = _tuned()
    extra = Consistency(_views(), [kind], OPTIONS)
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=2e-3)
    losses = []
    for _ in range(12):
        loss = extra(model, 0, 1.0)  # the same crops: what is learned shows
        assert loss is not None
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert any(p.grad is not None for n, p in parameters.items() if "lora" in n)


def test_an_unsure_teacher_teaches_nothing() -> None:
    model = _tuned()
    extra = Consistency(_views(), ["semantic"], UnlabelledOptions("consistency", threshold=0.999))
    loss = extra(model, 0, 1.0)
    assert loss is not None
    assert float(loss.detach()) == 0
    ramped = UnlabelledOptions("consistency", ramp_up=0.5)
    assert Consistency(_views(), ["semantic"], ramped)(model, 0, 0.0) is None


def test_masks_are_blocks_and_never_all_empty() -> None:
    for seed in range(20):
        masks = random_masks(4, (8, 8), np.random.default_rng(seed))
        assert masks[0].any()
        assert masks.mean((1, 2)).max() < 0.9


def test_masking_hides_the_patch_itself_and_nothing_else() -> None:
    model = Model.fresh("tiny-test", HEADS)
    pixels = torch.rand(1, 3, 56, 56)
    none = torch.zeros(1, 4, 4, dtype=torch.bool)
    token = torch.zeros(64)
    plain = model.encode(pixels)
    assert torch.equal(masked_tokens(model.backbone, pixels, none, token).last, plain.last)
    mask = none.clone()
    mask[0, 1, 2] = True
    other = pixels.clone()
    other[:, :, 14:28, 28:42] = 0.3
    a = masked_tokens(model.backbone, pixels, mask, token).last
    b = masked_tokens(model.backbone, other, mask, token).last
    assert torch.equal(a, b)
    assert not torch.equal(a, plain.last)


def _lively() -> Model:
    """The tiny model with blocks that matter: freshly made ones hardly change the tokens."""
    model = _tuned()
    with torch.no_grad():
        for block in model.backbone.vit.blocks:
            block.ls1.gamma.fill_(0.5)
            block.ls2.gamma.fill_(0.5)
    return model


def _distil(steps: int, *, moving: bool) -> tuple[list[float], float, float, float]:
    """Losses above the least possible, spread of tokens before and after, share of prototypes used.

    With `moving`, every step has new crops and the teacher follows; without, both stand still.
    """
    torch.manual_seed(0)
    model = _lively()
    options = UnlabelledOptions("distill", ramp_up=0.0, teacher_decay=0.9 if moving else 0.9999)
    extra = Distillation(_views(4), model, options)
    if not moving:
        extra.teacher.steps = extra.teacher_heads.steps = 10**9
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=3e-3)
    looked_at = _views(4)(999)[0]
    with torch.no_grad():
        before = token_spread(model.encode(looked_at))
    least: list[float] = []  # the entropy of what the teacher says: no answer costs less
    answer = extra._targets

    def listened(*given: Any) -> dict[str, torch.Tensor]:
        said = answer(*given)
        entropy = [-(p * (p + 1e-12).log()).sum(1).mean() for p in said.values()]
        least.append(float(torch.stack(entropy).mean()) / float(np.log(512)))
        return said

    extra._targets = listened  # type: ignore[method-assign]
    losses = []
    for step in range(steps):
        loss = extra(model, step if moving else 0, 1.0)
        assert loss is not None
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        extra.after_step(parameters)
        losses.append(float(loss.detach()) - least[-1])
    with torch.no_grad():
        mask = torch.ones(4, 8, 8, dtype=torch.bool)
        used = extra._targets(model, looked_at, mask)["patch"].mean(0)
        in_use = float(torch.exp(-(used * (used + 1e-9).log()).sum()) / len(used))
        return losses, before, token_spread(model.encode(looked_at)), in_use


def test_distillation_comes_nearer_to_what_the_teacher_says() -> None:
    losses, *_ = _distil(25, moving=False)
    # The centre moves in the first steps and makes the task harder; from then on it is learned.
    assert losses[-1] < 0.5 * max(losses)


def test_distillation_does_not_collapse(monkeypatch: pytest.MonkeyPatch) -> None:
    _, before, after, in_use = _distil(40, moving=True)
    assert after > 0.6 * before > 0.3
    assert in_use > 0.3
    monkeypatch.setattr("dinoscope.engine.distill.CENTRE_KEPT", 1.0)  # a centre that never moves
    *_, without_centre = _distil(40, moving=True)
    assert without_centre < 0.5 * in_use


def test_the_measure_of_collapse_sees_one() -> None:
    features = Model.fresh("tiny-test", HEADS).encode(torch.zeros(2, 3, 56, 56) + 0.5)
    constant = features.patch_tokens * 0 + features.patch_tokens[:1, :, :1, :1]
    from dataclasses import replace

    assert token_spread(replace(features, patch_tokens=constant)) < 1e-3


def test_distillation_goes_on_from_its_state() -> None:
    model = _tuned()
    options = UnlabelledOptions("distill", ramp_up=0.0)
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}

    def run(extra: Distillation, steps: range) -> float:
        value = 0.0
        for step in steps:
            loss = extra(model, step, 1.0)
            assert loss is not None
            loss.backward()
            extra.after_step(parameters)
            value = float(loss.detach())
        return value

    first = Distillation(_views(), model, options)
    run(first, range(2))
    import copy

    kept = copy.deepcopy(first.state())
    expected = run(first, range(2, 4))
    second = Distillation(_views(), model, options)
    second.load(kept)
    assert run(second, range(2, 4)) == pytest.approx(expected, rel=1e-5)


def test_held_out_images_do_not_train_without_labels_either() -> None:
    held = [TaskSource("instance", [Path("val/a.tif")], [Path("val/l.tif")])]
    layer = ImageInput(np.zeros((4, 4)), "YX", name="a")
    kept, dropped = without([Path("pool/a.tif"), Path("pool/b.ome.tif"), layer], held)
    assert (kept, dropped) == ([Path("pool/b.ome.tif")], 2)


def _run(folders: tuple[Path, Path], output: Path, method: str, **more: Any) -> Any:
    options = TrainOptions(
        **{
            "tune": "lora-last:1",
            "epochs": 2,
            "batch_size": 2,
            "crop_px": 112,
            "threads": 1,
            **more,
        }
    )
    images = sorted(folders[0].iterdir())
    source = sources_from_folders(*folders, "instance")
    unlabelled = Unlabelled(images, UnlabelledOptions(method, ramp_up=0.0, crops=2))
    events = train([source], options, base="tiny-test", output=output, unlabelled=unlabelled)
    seen: list[Progress] = []
    while True:
        try:
            seen.append(next(events))
        except StopIteration as stop:
            summary: TrainSummary = stop.value
            return seen, summary


@pytest.mark.parametrize("method", ["consistency", "distill"])
def test_training_with_unlabelled_images_says_so(
    method: str, disc_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    events, summary = _run(disc_folders, tmp_path / "m.dinoscope", method)
    assert any(f"loss_{method}" in e.values for e in events)
    assert any(f"{method} on 5 planes without labels, without 1 that" in n for n in summary.notes)


def test_methods_that_cannot_work_are_refused(
    disc_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no part of the backbone is trained"):
        _run(disc_folders, tmp_path / "m.dinoscope", "distill", tune="heads")
    with pytest.raises(InputError, match="consistency was asked for with depth"):
        Consistency(_views(), ["depth"], OPTIONS)
