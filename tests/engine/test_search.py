"""A search tries each setting once, keeps what is best on validation, and can be interrupted."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from dinoscope.config import SearchOptions, SplitOptions, TrainOptions
from dinoscope.engine import search as module
from dinoscope.engine.dataset import sources_from_folders
from dinoscope.engine.search import SearchSummary, rounds_of, search, trials_of
from dinoscope.errors import InputError, TrainingError
from dinoscope.models.checkpoint import load_model
from dinoscope.types import Progress

Folders = tuple[Path, Path]
OPTIONS = TrainOptions(batch_size=2, crop_px=112, threads=1, epochs=1)
SETTINGS = SearchOptions((1e-4, 1e-2), (2,), ("heads", "lora-last:1"), epochs_each=1)


def _run(
    folders: Folders,
    output: Path,
    *,
    stop_at: str = "",
    settings: SearchOptions = SETTINGS,
    splits: SplitOptions | None = None,
) -> tuple[list[Progress], SearchSummary | None]:
    source = sources_from_folders(*folders, "instance")
    events = search([source], OPTIONS, settings, output=output, base="tiny-test", splits=splits)
    seen = []
    while True:
        try:
            seen.append(next(events))
        except StopIteration as stop:
            return seen, stop.value
        if stop_at and seen[-1].message.startswith(stop_at):
            events.close()
            return seen, None


def test_combinations_are_tried_once_each() -> None:
    settings = SearchOptions((1e-3, 1e-2), (4, 8), ("heads", "lora-all"))
    found = trials_of(settings, 0)
    assert len(found) == len({(t.learning_rate, t.lora_rank, t.tune) for t in found}) == 6
    some = trials_of(SearchOptions((1e-3, 1e-2), (4, 8), ("lora-all",), trials=2), 1)
    assert [t.number for t in some] == [1, 2]
    assert rounds_of(27, True) == [27, 9, 3]
    assert rounds_of(2, True) == [2]


def test_a_search_goes_on_where_it_was_and_keeps_the_best(
    disc_folders: Folders, tmp_path: Path
) -> None:
    output = tmp_path / "best.dinoscope"
    splits = SplitOptions(test_fraction=0.2)
    _, stopped = _run(disc_folders, output, stop_at="round 1, trial 3", splits=splits)
    assert stopped is None
    assert not output.exists()
    table = tmp_path / "best.search" / "trials.csv"
    first = table.read_text()
    assert len(first.splitlines()) == 3
    seen, summary = _run(disc_folders, output, splits=splits)
    assert summary is not None
    assert not any(e.message.startswith(("round 1, trial 1", "round 1, trial 2")) for e in seen)
    with table.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [(r["round"], r["trial"]) for r in rows[:4]] == [("0", str(n)) for n in (1, 2, 3, 4)]
    last = [r for r in rows if r["round"] == "1"]
    assert len(last) == 2  # the better half of four, trained three times as long
    by_score = sorted(rows[:4], key=lambda r: (-float(r["score"]), int(r["trial"])))
    assert {r["trial"] for r in last} == {r["trial"] for r in by_score[:2]}
    assert int(last[0]["steps"]) == 3 * int(rows[0]["steps"])
    best = max(last, key=lambda r: (float(r["score"]), -int(r["trial"])))
    assert (summary.best["round"], str(summary.best["trial"])) == (1, best["trial"])
    card = load_model(output).card
    assert card.training["tune"] == best["tune"]
    assert card.scores["ap50"] == pytest.approx(float(best["ap50"]), abs=1e-3)
    assert "test_ap50" in card.scores
    assert card.name == "best"
    other = SearchOptions((1e-3,), (2,), ("heads",), epochs_each=1)
    with pytest.raises(InputError, match="belongs to a search with other"):
        _run(disc_folders, output, settings=other, splits=splits)


def test_a_trial_that_fails_is_told_and_the_others_go_on(
    disc_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.train

    def train(sources: Any, options: TrainOptions, **more: Any) -> Any:
        if options.learning_rate > 5e-3:
            raise TrainingError("the loss became nan")
        return (yield from real(sources, options, **more))

    monkeypatch.setattr(module, "train", train)
    settings = SearchOptions((1e-2, 1e-4), (2,), ("heads",), epochs_each=1)
    _, summary = _run(disc_folders, tmp_path / "m.dinoscope", settings=settings)
    assert summary is not None
    assert summary.best["learning_rate"] == 1e-4
    assert "became nan" in summary.rows[0]["error"]
    settings = SearchOptions((1e-2,), (2,), ("heads",), epochs_each=1)
    with pytest.raises(TrainingError, match="all 1 trials failed, the first: the loss became nan"):
        _run(disc_folders, tmp_path / "n.dinoscope", settings=settings)


def test_a_search_needs_something_to_decide_on(disc_folders: Folders, tmp_path: Path) -> None:
    for path in list(disc_folders[0].iterdir())[1:]:
        path.unlink()
    with pytest.raises(InputError, match="no image can be held out to decide on"):
        _run(disc_folders, tmp_path / "m.dinoscope")
