"""Cross-validation: every image judged once, one model of all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dinoscope.config import SplitOptions, TrainOptions
from dinoscope.engine.crossval import mean_and_spread
from dinoscope.engine.dataset import sources_from_folders
from dinoscope.engine.train import TrainSummary, train
from dinoscope.models.checkpoint import load_model
from dinoscope.types import Progress

Folders = tuple[Path, Path]


def _run(
    folders: Folders, output: Path, splits: SplitOptions, *, stop_at: str = "", resume: bool = False
) -> tuple[list[Progress], TrainSummary | None]:
    options = TrainOptions(
        tune="heads", epochs=1, batch_size=2, crop_px=112, threads=1, resume=resume
    )
    source = sources_from_folders(*folders, "instance")
    events = train([source], options, base="tiny-test", output=output, splits=splits)
    seen = []
    while True:
        try:
            seen.append(next(events))
        except StopIteration as stop:
            return seen, stop.value
        if stop_at and seen[-1].message.startswith(stop_at):
            events.close()
            return seen, None


def test_folds_give_mean_and_spread_and_all_images_train(
    disc_folders: Folders, tmp_path: Path
) -> None:
    output = tmp_path / "m.dinoscope"
    splits = SplitOptions(folds=2, test_fraction=0.2)
    events, stopped = _run(disc_folders, output, splits, stop_at="fold 2 of 2: loading")
    assert stopped is None
    assert any(e.message.startswith("fold 1 of 2: step") for e in events)
    events, summary = _run(disc_folders, output, splits, resume=True)
    assert not any(e.message.startswith("fold 1") for e in events)  # done before
    assert summary is not None
    assert (summary.training_images, summary.validation_images) == (5, 0)
    folds = [h["ap50"] for h in summary.history]
    assert len(folds) == 2
    assert summary.scores["ap50"] == pytest.approx(np.mean(folds), abs=1e-4)
    assert {"ap50_sd", "test_ap50"} <= set(summary.scores)
    assert "means over 2 folds" in summary.notes[0]
    card = load_model(output).card
    assert card.scores["ap50_sd"] == summary.scores["ap50_sd"]
    assert sorted(p.name for p in tmp_path.glob("m.*")) == ["m.dinoscope"]


def test_a_metric_of_one_fold_has_no_spread() -> None:
    assert mean_and_spread([{"a": 1.0}, {"a": 3.0, "b": 2.0}]) == {
        "a": 2.0,
        "a_sd": 1.4142,
        "b": 2.0,
    }
