"""Images of the development sets, copied into folders as a user would have them, and scored."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import dinoscope
from benchmarks.bootstrap import interval
from benchmarks.settings import Settings

IndexRow = Mapping[str, str]

#: How a model's card names a set.
_CARD_NAMES = {"dsb2018": "DSB2018", "rbc12_crops": "RBC", "cellcycle_ifc": "flow cytometry"}


def index(
    settings: Settings, name: str, split: str, keep: Callable[[IndexRow], bool] = lambda _: True
) -> list[dict[str, str]]:
    """Rows of a set's index; at most ``settings.images`` of them, evenly spaced, for validation."""
    if settings.data is None or not (settings.data / name / "index.csv").exists():
        raise FileNotFoundError(f"data set {name!r} was not found: say where it is with --data")
    with (settings.data / name / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["split"] == split and keep(r)]
    limit = settings.images
    if split == "dev-train" or limit is None or limit >= len(rows):
        return rows
    return [rows[int(i * len(rows) / limit)] for i in range(limit)]


def fluorescence(row: IndexRow) -> bool:
    """Whether a dsb2018 image shows fluorescence."""
    return row["modality"].startswith("fluo")


#: What is read off dsb2018's scores: name, per-image score, images.
DSB_SCORES: tuple[tuple[str, str, Callable[[IndexRow], bool]], ...] = (
    ("dsb2018 all six modalities, AP@0.5", "ap50", lambda row: True),
    ("dsb2018 fluorescence, AP@0.5", "ap50", fluorescence),
    ("dsb2018 fluorescence, mean AP 0.5:0.95", "map", fluorescence),
    ("dsb2018 histology, AP@0.5", "ap50", lambda row: row["modality"].startswith("hist")),
)


def image_file(settings: Settings, name: str, stem: str, kind: str = "images") -> Path:
    """A file of a set by its id."""
    assert settings.data is not None
    return next((settings.data / name / kind).glob(f"{stem}.*"))


def copy(
    settings: Settings,
    name: str,
    rows: Iterable[IndexRow],
    folder: Path,
    kinds: Sequence[str] = ("images", "labels"),
) -> Path:
    """Copy images and labels into sub-folders of `folder`, which is returned."""
    for kind in kinds:
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for row in rows:
        for kind in kinds:
            source = image_file(settings, name, row["id"], kind)
            shutil.copy(source, folder / kind / source.name)
    return folder


def predict(
    settings: Settings, images: Path, output: Path, task: str, model: str, *flags: str
) -> dict[str, Any]:
    """``dinoscope predict`` with its defaults."""
    where = ["--output", str(output), "--model", model]
    return dinoscope("predict", str(images), "--task", task, *where, *settings.thread_flags, *flags)


def evaluate(predictions: Path, truth: Path, task: str) -> dict[str, Any]:
    """``dinoscope evaluate``."""
    return dinoscope(
        *("evaluate", "--predictions", str(predictions), "--truth", str(truth), "--task", task)
    )


def predicted_scores(
    settings: Settings, folder: Path, model: str, task: str = "instance", *flags: str
) -> dict[str, Any]:
    """Predict ``folder/images`` and score it against ``folder/labels``."""
    output = folder / "out"
    shutil.rmtree(output, ignore_errors=True)
    predict(settings, folder / "images", output, task, model, *flags)
    return evaluate(output, folder / "labels", task)


@dataclass(frozen=True)
class Mean:
    """Mean over images and its 95 % interval over groups."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"95 % {self.low:.3f} to {self.high:.3f}, n = {self.n}"


def mean_over(
    scores: Mapping[str, Any],
    rows: Sequence[IndexRow],
    name: str = "ap50",
    keep: Callable[[IndexRow], bool] = lambda _: True,
) -> Mean | None:
    """Mean of a per-image score over the images of `rows` that `keep` chooses."""
    found = {Path(r["image"]).stem: float(r[name]) for r in scores["per_image"]}
    chosen = [r for r in rows if keep(r)]
    if not chosen:
        return None
    values = [found[r["id"]] for r in chosen]
    low, high = interval(values, [r.get("group") or r["id"] for r in chosen])
    return Mean(float(np.mean(values)), low, high, len(values))


def saw(model: str, name: str) -> bool:
    """Whether a model's card says that images of a set shaped its weights."""
    from dinoscope.models.catalog import inspect

    card = inspect(model)
    # What it went on from may have seen what it left out itself.
    fresh = card.training.get("start", "None") in ("", "None")
    excluded = fresh and name in str(card.training.get("exclude", ""))
    return not excluded and any(_CARD_NAMES[name] in data for data in card.data)
