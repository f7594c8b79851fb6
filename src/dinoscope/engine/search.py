"""A small search for the settings of a training, decided on validation images only.

Successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943): all combinations are trained
briefly, the best third of them again and three times as long, until three or fewer are left.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import itertools
import json
import math
import os
import shutil
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.config import SearchOptions, SplitOptions, TrainOptions, parse_tune
from dinoscope.engine.crossval import told
from dinoscope.engine.dataset import TaskSource
from dinoscope.engine.heldout import score_file
from dinoscope.engine.splits import grouped, hold_out
from dinoscope.engine.train import TrainSummary, train
from dinoscope.engine.unlabelled import Unlabelled, kept_apart
from dinoscope.errors import InputError, OutputError, TrainingError
from dinoscope.models.checkpoint import inspect, model_hash, update_card
from dinoscope.types import Progress

#: One trial in so many goes on to the next round, and trains so many times as long.
KEPT_OF = 3

Row = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One combination of settings."""

    number: int
    learning_rate: float
    lora_rank: int
    tune: str


@dataclass(frozen=True)
class SearchSummary:
    """What a search found. `rows` are the finished trials, as in the table."""

    output: str
    model_hash: str
    table: str
    best: Mapping[str, Any]
    scores: Mapping[str, float]
    rows: tuple[Mapping[str, Any], ...]
    seconds: float
    notes: tuple[str, ...] = ()


def trials_of(options: SearchOptions, seed: int) -> list[Trial]:
    """The combinations to try, each once; a rank says nothing where there are no LoRA matrices.

    Examples
    --------
    >>> [t.tune for t in trials_of(SearchOptions((1e-3,), (4, 8), ("heads", "lora-all")), 0)]
    ['heads', 'lora-all', 'lora-all']
    """
    found: dict[tuple[float, int, str], None] = {}
    for rate, tune, rank in itertools.product(options.learning_rates, options.tunes, options.ranks):
        without_lora = parse_tune(tune)[0] in ("heads", "full")
        found[rate, options.ranks[0] if without_lora else rank, tune] = None
    combinations = list(found)
    if options.trials is not None and options.trials < len(combinations):
        drawn = np.random.default_rng(seed).permutation(len(combinations))[: options.trials]
        combinations = [combinations[int(i)] for i in sorted(drawn)]
    return [Trial(n, *c) for n, c in enumerate(combinations, start=1)]


def rounds_of(count: int, halving: bool) -> list[int]:
    """How many trials each round has.

    Examples
    --------
    >>> rounds_of(12, True), rounds_of(12, False)
    ([12, 4, 2], [12])
    """
    rounds = [count]
    while halving and rounds[-1] > KEPT_OF:
        rounds.append(math.ceil(rounds[-1] / KEPT_OF))
    return rounds


def search(
    sources: Sequence[TaskSource],
    options: TrainOptions,
    settings: SearchOptions,
    *,
    output: str | Path,
    base: str | Path = "embedded",
    val_sources: Sequence[TaskSource] = (),
    splits: SplitOptions | None = None,
    unlabelled: Unlabelled | None = None,
    new_heads: bool = False,
    allow_download: bool = False,
) -> Generator[Progress, None, SearchSummary]:
    """Try settings and write the model that is best on the validation images to `output`.

    A folder ``<output>.search`` beside it keeps the table ``trials.csv`` and the best model so
    far; the same search started again does not repeat what is in the table.

    Parameters
    ----------
    sources, val_sources, base, splits, unlabelled, new_heads, allow_download
        As for `engine.train.train`. All trials see the same images. The test part is read once,
        for the model that was chosen.
    options : TrainOptions
        All that is not searched; its minutes and epochs do not count.
    settings : SearchOptions
        What is tried, and for how long each.

    Yields
    ------
    Progress
        Of one training after the other.

    Returns
    -------
    SearchSummary

    Raises
    ------
    InputError
        There is nothing to decide on, or the folder belongs to another search.
    TrainingError
        Every trial failed.
    """
    begun = time.perf_counter()
    output = Path(output)
    splits = splits or SplitOptions()
    if splits.folds:
        raise InputError(
            f"a search was asked for with {splits.folds} folds", expected="no folds in a search"
        )
    sources = grouped(sources, splits.group_by)
    test = hold_out(sources, splits.test_fraction, options.seed + 1)
    chosen_by = hold_out(test.training, 0.0 if val_sources else options.val_fraction, options.seed)
    held = list(val_sources) or chosen_by.held
    if not held:
        raise InputError(
            "no image can be held out to decide on",
            expected="at least two images (or groups of images), or validation images",
        )
    folder = output.with_suffix(".search")
    _claim(folder, [sources, held], options, settings, splits, base)
    table = folder / "trials.csv"
    rows = _read(table)
    more: dict[str, Any] = {
        "base": base,
        "val_sources": held,
        "new_heads": new_heads,
        "allow_download": allow_download,
        "unlabelled": kept_apart(unlabelled, test.held),
    }
    survivors = trials_of(settings, options.seed)
    for number, count in enumerate(rounds_of(len(survivors), settings.halving)):
        survivors = _best_of(rows, survivors, number - 1)[:count] if number else survivors
        for place, trial in enumerate(survivors, start=1):
            if any(r["round"] == number and r["trial"] == trial.number for r in rows):
                continue
            path = folder / f"round{number}_trial{trial.number}{output.suffix}"
            events = train(
                chosen_by.training, _options(options, settings, trial, number), output=path, **more
            )
            prefix = f"round {number + 1}, trial {place} of {len(survivors)}"
            try:
                summary = yield from told(events, prefix)
            except TrainingError as error:
                path.with_suffix(".ckpt").unlink(missing_ok=True)
                rows.append(_row(trial, number, None, str(error)))
            else:
                rows.append(_row(trial, number, summary, ""))
                if _is_best(rows):
                    os.replace(path, folder / f"best{output.suffix}")
                path.unlink(missing_ok=True)
            _write(table, rows)
    scored = [r for r in rows if r["score"] != ""]
    if not scored:
        raise TrainingError(
            f"all {len(rows)} trials failed, the first: {rows[0]['error']}",
            hint="Try smaller learning rates.",
        )
    best = max(scored, key=_rank)
    return _finish(folder, output, best, rows, test.held, options, time.perf_counter() - begun)


def _options(
    options: TrainOptions, settings: SearchOptions, trial: Trial, number: int
) -> TrainOptions:
    """Of one trial: its settings, and time that grows from round to round."""
    longer = KEPT_OF**number
    epochs = settings.epochs_each * longer if settings.epochs_each else None
    return replace(
        options,
        learning_rate=trial.learning_rate,
        lora_rank=trial.lora_rank,
        tune=trial.tune,
        epochs=epochs,
        minutes=None if epochs else settings.minutes_each * longer,
        resume=True,  # a trial that was interrupted goes on
    )


def _best_of(rows: Sequence[Row], trials: Sequence[Trial], number: int) -> list[Trial]:
    """`trials` from the best to the worst of a round; failed ones last."""
    found = {r["trial"]: r["score"] for r in rows if r["round"] == number}
    scores = {t.number: float(found[t.number]) if found[t.number] != "" else -1 for t in trials}
    return sorted(trials, key=lambda t: (-scores[t.number], t.number))


def _rank(row: Row) -> tuple[int, float, int]:
    """Longer trained trials first: those of other rounds cannot be compared with them."""
    return int(row["round"]), float(row["score"]), -int(row["trial"])


def _is_best(rows: Sequence[Row]) -> bool:
    """Whether the last row is the best so far."""
    return max((r for r in rows if r["score"] != ""), key=_rank) is rows[-1]


def _row(trial: Trial, number: int, summary: TrainSummary | None, error: str) -> Row:
    row: Row = {"round": number, "trial": trial.number}
    row |= {n: v for n, v in dataclasses.asdict(trial).items() if n != "number"}
    if summary is None:
        return row | {"steps": "", "seconds": "", "score": "", "error": error}
    row |= {"steps": summary.steps, "seconds": round(summary.seconds, 1)}
    row["score"] = round(summary.scores["score"], 5)
    row |= {n: round(v, 5) for n, v in summary.scores.items() if n != "score"}
    return row | {"error": ""}


def _read(table: Path) -> list[Row]:
    if not table.is_file():
        return []
    with table.open(newline="", encoding="utf-8") as handle:
        rows: list[Row] = [dict(r) for r in csv.DictReader(handle)]
    for row in rows:
        for name, kind in (("round", int), ("trial", int), ("lora_rank", int)):
            row[name] = kind(row[name])
        row["learning_rate"] = float(row["learning_rate"])
        row["score"] = float(row["score"]) if row["score"] else ""
    return rows


def _write(table: Path, rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(n for row in rows for n in row))
    temporary = table.with_name(table.name + ".part")
    try:
        with temporary.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, columns, restval="")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, table)
    except OSError as error:
        raise OutputError(
            f"the table {str(table)!r} cannot be written ({error.strerror or error})",
            hint="Free some space or choose another folder.",
        ) from error


def _claim(
    folder: Path,
    parts: Sequence[Sequence[TaskSource]],
    options: TrainOptions,
    settings: SearchOptions,
    splits: SplitOptions,
    base: str | Path,
) -> None:
    """Make the folder, or see that it belongs to this very search."""
    names = [
        f"{s.task} {getattr(image, 'name', image)}" for p in parts for s in p for image in s.images
    ]
    kept = dataclasses.asdict(options)
    for name in ("resume", "threads", "device", "minutes", "epochs", *_searched()):
        kept.pop(name)
    record = {
        "base": str(base),
        "images": hashlib.sha256("\n".join(names).encode()).hexdigest(),
        "options": kept,
        "search": dataclasses.asdict(settings),
        "splits": dataclasses.asdict(splits),
    }
    text = json.dumps(record, indent=1, sort_keys=True)
    note = folder / "search.json"
    if note.is_file():
        if note.read_text(encoding="utf-8") != text:
            raise InputError(
                f"{str(folder)!r} belongs to a search with other images or options",
                expected="the same search, to go on with it",
                hint="Choose another --output, or delete that folder.",
            )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        note.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{str(folder)!r} cannot be written ({error.strerror or error})",
            hint="Choose another --output.",
        ) from error


def _searched() -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(Trial) if f.name != "number")


def _finish(
    folder: Path,
    output: Path,
    best: Row,
    rows: Sequence[Row],
    test: Sequence[TaskSource],
    options: TrainOptions,
    seconds: float,
) -> SearchSummary:
    """Put the chosen model in its place, with the scores of the test part."""
    shutil.copy(folder / f"best{output.suffix}", output)
    card = inspect(output)
    scores = dict(card.scores)
    if test:
        tested = score_file(output, test, device=options.device)
        scores |= {f"test_{n}": round(v, 4) for n, v in tested.items() if n != "score"}
    note = f"Chosen among {len(rows)} trials by its score on the validation images."
    update_card(output, name=output.stem, scores=scores, notes=(*card.notes, note))
    return SearchSummary(
        output=str(output),
        model_hash=model_hash(output),
        table=str(folder / "trials.csv"),
        best=best,
        scores=scores,
        rows=tuple(rows),
        seconds=seconds,
        notes=(note,),
    )
