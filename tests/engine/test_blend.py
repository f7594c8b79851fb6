from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dinoscope.config import TrainOptions
from dinoscope.engine.blend import SHARES, blend, choose, snapshot
from dinoscope.engine.dataset import TaskSource, sources_from_folders
from dinoscope.engine.train import TrainSummary, train
from dinoscope.engine.validate import Validator
from dinoscope.models.checkpoint import load_model
from dinoscope.models.model import Model
from dinoscope.tasks.base import task
from dinoscope.types import Progress

Folders = tuple[Path, Path]


def _drained(events: object) -> tuple[list[Progress], Any]:
    seen = []
    while True:
        try:
            seen.append(next(events))  # type: ignore[call-overload]
        except StopIteration as stop:
            return seen, stop.value


def test_held_out_images_are_believed_and_others_only_nearly() -> None:
    scores = {0.25: 0.70, 0.5: 0.79, 0.75: 0.80, 1.0: 0.80}
    assert choose(scores, 1.0) == 1.0
    assert choose(scores, 0.97) == 0.5
    assert choose({0.25: 0.0, 0.5: 0.0, 1.0: 0.0}, 0.97) == 0.25


def test_weights_end_where_the_judge_likes_them_best() -> None:
    model = Model.fresh("tiny-test", {"instance": task("instance").head_spec(())}, seed=1).eval()
    for parameter in model.backbone.parameters():
        parameter.requires_grad_(False)
    start = snapshot(model)
    assert start
    assert not any(name.startswith("backbone.") for name in start)
    rng = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in start:
                parameter.add_(torch.randn(parameter.shape, generator=rng))
    found = snapshot(model)
    name = next(iter(start))

    def judge(changed: Model) -> dict[str, float]:
        moved = dict(changed.named_parameters())[name] - start[name]
        share = float(moved.norm() / (found[name] - start[name]).norm())
        return {"score": 1 - abs(share - 0.5)}

    seen, (share, said) = _drained(blend(model, start, judge))
    assert share == 0.5
    assert said["score"] == pytest.approx(1)
    assert [e.done for e in seen] == list(range(len(SHARES) + 1))
    for name, value in snapshot(model).items():
        torch.testing.assert_close(value, (start[name] + found[name]) / 2)


@pytest.fixture
def taught(disc_folders: Folders, tmp_path: Path) -> tuple[TaskSource, Path]:
    """Two images of discs, and a model that has seen some."""
    source = sources_from_folders(*disc_folders, "instance")
    base = tmp_path / "base.dinoscope"
    options = TrainOptions(tune="heads", epochs=3, batch_size=4, crop_px=112, threads=1)
    events, _ = _drained(train([source], options, base="tiny-test", output=base))
    assert not any(e.step == "blend" for e in events)  # its head was new
    return TaskSource("instance", source.images[:2], source.truths[:2]), base


def _again(source: TaskSource, base: Path, output: Path, **more: object) -> TrainSummary:
    options = TrainOptions(
        tune="heads", epochs=2, batch_size=4, crop_px=112, threads=1, val_fraction=0, **more
    )
    _, summary = _drained(train([source], options, base=base, output=output))
    assert isinstance(summary, TrainSummary)
    return summary


def test_without_held_out_images_the_smallest_change_that_explains_the_training_images_is_taken(
    taught: tuple[TaskSource, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, base = taught
    looked_at = []
    scores = iter([0.60, 0.79, 0.80, 0.80])

    def judge(self: Validator, model: Model) -> dict[str, float]:
        looked_at.append(len(self.images))
        return {"score": next(scores)}

    monkeypatch.setattr(Validator, "__call__", judge)
    summary = _again(source, base, tmp_path / "blended.dinoscope")
    assert looked_at == [2, 2, 2, 2]
    assert any("50% of what training changed is kept" in n for n in summary.notes)
    plain = _again(source, base, tmp_path / "plain.dinoscope", blend=False)
    assert not any("is kept" in n for n in plain.notes)
    old, half, whole = (
        load_model(path, device="cpu").state_dict()
        for path in (base, tmp_path / "blended.dinoscope", tmp_path / "plain.dinoscope")
    )
    for name, value in half.items():
        middle = (old[name].double() + whole[name].double()) / 2
        np.testing.assert_allclose(value.double(), middle, atol=1e-5, err_msg=name)


def test_scores_are_those_of_the_weights_that_are_kept(
    taught: tuple[TaskSource, Path],
    disc_folders: Folders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, base = taught
    every = sources_from_folders(*disc_folders, "instance")
    held = [TaskSource("instance", every.images[2:], every.truths[2:], "held")]  # four: enough
    scores = iter([0.1, 0.5, 0.7, 0.9, 0.8, 0.6])
    looked_at = []

    def judge(self: Validator, model: Model) -> dict[str, float]:
        looked_at.append(len(self.images))
        return {"score": next(scores)}

    monkeypatch.setattr(Validator, "__call__", judge)
    options = TrainOptions(tune="heads", epochs=1, batch_size=4, crop_px=112, threads=1)
    output = tmp_path / "out.dinoscope"
    events = train([source], options, base=base, output=output, val_sources=held)
    _, summary = _drained(events)
    assert isinstance(summary, TrainSummary)
    # Before, after one step, then a quarter, half, three quarters and all: nothing twice.
    assert any("50% of what training changed is kept" in n for n in summary.notes)
    assert summary.scores == {"score": 0.9}
    assert looked_at == [4] * 6
    assert load_model(output, device="cpu").card.scores == {"score": 0.9}
