"""What a run of benchmarks is told, and the results of its long parts that are kept."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Settings:
    """Where things are, and how long the long parts may take.

    Parameters
    ----------
    data : Path, optional
        Folder with the development data sets.
    model : str
        The model that is measured: a name or a file.
    twin : str, optional
        A model that never saw what a part holds out (no dsb2018 image for `fewshot`, no label of
        rbc12 and cellcycle for `probe`).
    redcells, cellcycle : str
        The classification adapters.
    minutes : float, optional
        Time of each training run, instead of the part's own.
    draws : int
        Draws of few images.
    images : int, optional
        At most this many validation images of each set, evenly spaced: for trying things out.
    threads : int
        CPU threads; 0 = all.
    train_flags : tuple of str
        More flags for each ``dinoscope train``.
    rivals : Path, optional
        Folder with the JSON results of ``benchmarks.peers``.
    work : Path
        Folder of kept results, learning curves and models.
    """

    data: Path | None
    work: Path
    model: str = "embedded"
    twin: str | None = None
    redcells: str = "embedded-redcells"
    cellcycle: str = "embedded-cellcycle"
    minutes: float | None = None
    draws: int = 3
    images: int | None = None
    threads: int = 0
    train_flags: tuple[str, ...] = ()
    rivals: Path | None = None

    def minutes_or(self, default: float) -> float:
        """Minutes of one training run."""
        return default if self.minutes is None else self.minutes

    @property
    def thread_flags(self) -> list[str]:
        """How the command line is told about threads."""
        return ["--threads", str(self.threads)] if self.threads else []

    def need_twin(self, what: str) -> str:
        """The twin, or an error that says which one is wanted."""
        if self.twin is None:
            raise ValueError(f"give --twin MODEL: {what}")
        return self.twin


def say(text: str) -> None:
    """Tell what is being done."""
    import sys

    print(f"   {time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Kept:
    """Results of finished sub-runs in a JSON file, so that a part goes on where it stopped."""

    def __init__(self, settings: Settings, part: str) -> None:
        self.folder = settings.work / part
        self.path = self.folder / "done.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._done = self._read()

    def _read(self) -> dict[str, Any]:
        if not self.path.exists():
            return {}
        found: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        return found

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """The kept result of `key`, or a new one, which is kept at once."""
        if key in self._done:
            say(f"{key}: kept from an earlier run")
            return self._done[key]
        say(key)
        begun = time.perf_counter()
        # Read anew: another process may have finished other sub-runs meanwhile.
        self._done = {key: compute(), **self._read()}
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self._done, indent=1), encoding="utf-8")
        part.replace(self.path)
        say(f"{key}: {time.perf_counter() - begun:.0f} s")
        return self._done[key]

    def file(self, key: str, suffix: str) -> Path:
        """A file of this sub-run, for example its model."""
        name = "".join(c if c.isalnum() or c in "-." else "_" for c in key)
        return self.folder / f"{name}{suffix}"

    def curve(self, key: str, history: Iterable[Mapping[str, Any]]) -> None:
        """Write a learning curve as CSV."""
        write_table(self.file(key, ".csv"), list(history))


def training_precision(device: str = "cpu") -> Any:
    """The ``torch.dtype`` to train in; ``None`` for float32. A processor that emulates bfloat16
    multiplies in it 70 times as slowly."""
    from dinoscope.models.device import import_torch, precision_for

    found = precision_for(device, training=True)
    return None if found == import_torch().float32 else found


def autocast(device: str = "cpu") -> Any:
    """The context in which a step of training computes."""
    from dinoscope.models.device import import_torch

    precision = training_precision(device)
    return import_torch().autocast(device, precision, enabled=precision is not None)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows with any columns as CSV; nothing is written where there are none."""
    if not rows:
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def model_key(model: str) -> str:
    """Name and hash of a model, for the keys of kept results."""
    from dinoscope.models.catalog import locate
    from dinoscope.models.checkpoint import model_hash

    found = locate(model)
    digest = model_hash(found)[:12] if isinstance(found, Path) else ""
    return f"{Path(model).stem} {digest}".strip()
