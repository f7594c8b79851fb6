"""k-fold cross-validation for few images: every image is held out once, then all of them train.

The model that is written was trained on everything, so nothing of it is measured directly; what is
reported are the folds' scores, as mean and standard deviation. They are those of the end of each
fold's training, not of its best moment: the final model has no held-out images to choose one by.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.config import SplitOptions, TrainOptions
from dinoscope.engine.dataset import TaskSource
from dinoscope.engine.splits import fold_parts, grouped, hold_out
from dinoscope.engine.train import TrainSummary, train
from dinoscope.engine.unlabelled import Unlabelled, kept_apart
from dinoscope.errors import OutputError
from dinoscope.models.checkpoint import model_hash, update_card
from dinoscope.types import Progress


def cross_validate(
    sources: Sequence[TaskSource],
    options: TrainOptions,
    splits: SplitOptions,
    *,
    output: Path,
    test_sources: Sequence[TaskSource] = (),
    unlabelled: Unlabelled | None = None,
    **more: Any,
) -> Generator[Progress, None, TrainSummary]:
    """Train ``splits.folds`` models to see how good they get, and one on all images to keep.

    Each of them may take the time that `options` allow one training. `more` goes to
    `engine.train.train`. With ``options.resume``, folds that were finished are not repeated.

    Yields
    ------
    Progress
        Of one training after the other; messages begin with ``fold 1 of 5`` or ``all images``.

    Returns
    -------
    TrainSummary
        Of the last training; `scores` has ``<metric>`` and ``<metric>_sd`` over the folds.

    Raises
    ------
    InputError
        There are fewer images, or groups of them, than folds.
    """
    begun = time.perf_counter()
    # The folds are scored at the end of their trainings, so that is what the model must be.
    options = replace(options, blend=False)
    sources = grouped(sources, splits.group_by)
    test = list(test_sources)
    if not test and splits.test_fraction > 0:
        part = hold_out(sources, splits.test_fraction, options.seed + 1)
        sources, test = part.training, part.held
    parts = fold_parts(sources, splits.folds, options.seed)
    record = output.with_suffix(".folds.json")
    done = _read(record) if options.resume else []
    spare = output.with_name(f"{output.stem}.fold{output.suffix}")
    for number, part in enumerate(parts, start=1):
        if number <= len(done):
            continue
        prefix = f"fold {number} of {len(parts)}"
        events = train(
            part.training,
            options,
            output=spare,
            val_sources=part.held,
            unlabelled=kept_apart(unlabelled, test),
            **more,
        )
        summary = yield from told(events, prefix)
        spare.unlink(missing_ok=True)
        done.append(_last(summary))
        _write(record, done)
    final = train(
        sources,
        replace(options, val_fraction=0.0),
        output=output,
        test_sources=test,
        unlabelled=unlabelled,
        **more,
    )
    summary = yield from told(final, "all images")
    scores = mean_and_spread(done) | {
        n: v for n, v in summary.scores.items() if n.startswith("test_")
    }
    note = (
        f"Scores are means over {len(parts)} folds (sd: standard deviation); the model itself was "
        "trained on all images."
    )
    notes = (note, *(n for n in summary.notes if not n.startswith("No image was held out")))
    update_card(output, scores={n: round(v, 4) for n, v in scores.items()}, notes=notes)
    record.unlink(missing_ok=True)
    return replace(
        summary,
        model_hash=model_hash(output),
        scores=scores,
        notes=notes,
        seconds=time.perf_counter() - begun,
        history=tuple({"fold": float(n), **s} for n, s in enumerate(done, start=1)),
    )


def mean_and_spread(folds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """``<metric>`` and ``<metric>_sd`` (sample standard deviation) over the folds.

    Examples
    --------
    >>> mean_and_spread([{"iou": 0.5}, {"iou": 0.7}])
    {'iou': 0.6, 'iou_sd': 0.1414}
    """
    scores = {}
    for name in dict.fromkeys(n for fold in folds for n in fold):
        values = [fold[name] for fold in folds if name in fold]
        scores[name] = round(float(np.mean(values)), 4)
        if len(values) > 1:
            scores[f"{name}_sd"] = round(float(np.std(values, ddof=1)), 4)
    return scores


def _last(summary: TrainSummary) -> dict[str, float]:
    """Scores of the end of a training."""
    names = {n for n in summary.scores if not n.startswith("test_")}
    last = summary.history[-1] if summary.history else {}
    return {n: float(last.get(f"val_{n}", summary.scores[n])) for n in sorted(names)}


def told(
    events: Generator[Progress, None, TrainSummary], prefix: str
) -> Generator[Progress, None, TrainSummary]:
    """The events of one training among several, saying of which they are."""
    try:
        while True:
            event = next(events)
            yield replace(event, message=f"{prefix}: {event.message}".removesuffix(": "))
    except StopIteration as stop:
        summary: TrainSummary = stop.value
        return summary
    finally:
        events.close()


def _read(record: Path) -> list[dict[str, float]]:
    if not record.is_file():
        return []
    found: list[dict[str, float]] = json.loads(record.read_text(encoding="utf-8"))
    return found


def _write(record: Path, done: Sequence[Mapping[str, float]]) -> None:
    try:
        record.write_text(json.dumps(list(done)), encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{str(record)!r} cannot be written ({error.strerror or error})",
            hint="Free some space or choose another folder.",
        ) from error
