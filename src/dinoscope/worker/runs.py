"""What the worker keeps of finished predictions, so that sliders need no network.

Maps lie on disk in the session's folder, one file for each plane: they take no memory, and outlive
a worker that was killed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.errors import InputError
from dinoscope.types import Table

_COLUMN = "column "
#: Older runs are forgotten.
KEPT_RUNS = 12


class RunStore:
    """Kept maps by run and plane.

    Parameters
    ----------
    folder : Path
        Where they are kept; made at first use.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self, run: str, info: Mapping[str, Any]) -> None:
        """Begin a run; `info` are plain values that come back with its maps."""
        self._folder.mkdir(parents=True, exist_ok=True)
        by_age = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for old in by_age[: max(0, len(by_age) - KEPT_RUNS + 1)]:
            shutil.rmtree(old, ignore_errors=True)
        folder = self._folder / run
        folder.mkdir(exist_ok=True)
        (folder / "run.json").write_text(json.dumps(dict(info)))

    def keep(self, run: str, index: tuple[int, ...], maps: np.ndarray) -> None:
        """Keep the maps of one plane, ``(K, Y, X)`` uint8."""
        np.save(self._folder / run / _file_name(index), maps)

    def indices(self, run: str) -> list[tuple[int, ...]]:
        """The kept planes in the order of the image."""
        names = [path.stem for path in self._run(run).glob("plane*.npy")]
        return sorted(tuple(int(n) for n in name.split("_")[1:]) for name in names)

    def info(self, run: str) -> dict[str, Any]:
        """What was said at :meth:`create`."""
        info: dict[str, Any] = json.loads((self._run(run) / "run.json").read_text())
        return info

    def maps(self, run: str, index: tuple[int, ...]) -> np.ndarray:
        """The maps of one plane, ``(K, Y, X)`` uint8.

        Raises
        ------
        InputError
            They are not kept (any more).
        """
        path = self._run(run) / _file_name(index)
        if not path.exists():
            raise InputError(f"plane {index} of this result is not kept", hint="Run it again.")
        maps: np.ndarray = np.load(path, allow_pickle=False)
        return maps

    def keep_classes(
        self, run: str, index: tuple[int, ...], ids: np.ndarray, classes: Table
    ) -> None:
        """Keep which object of ``ids`` (Y, X) was of which class; names become plain text."""
        columns: dict[str, Any] = {_COLUMN + name: _as_text(c) for name, c in classes.items()}
        np.savez(self._folder / run / _file_name(index, "classes", ".npz"), ids=ids, **columns)

    def classes(self, run: str, index: tuple[int, ...]) -> tuple[np.ndarray, Table] | None:
        """What :meth:`keep_classes` kept, or ``None``."""
        path = self._run(run) / _file_name(index, "classes", ".npz")
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as kept:
            names = [name for name in kept.files if name.startswith(_COLUMN)]
            return kept["ids"], {name.removeprefix(_COLUMN): kept[name] for name in names}

    def forget(self, run: str) -> None:
        """Remove a run; nothing happens where there is none."""
        shutil.rmtree(self._folder / Path(run).name, ignore_errors=True)

    def _run(self, run: str) -> Path:
        folder = self._folder / Path(run).name
        if not (folder / "run.json").exists():
            raise InputError(
                f"the maps of result {run!r} are not kept any more",
                hint="Run the prediction again to change its objects.",
            )
        return folder


def _file_name(index: tuple[int, ...], what: str = "plane", suffix: str = ".npy") -> str:
    return "_".join([what, *map(str, index)]) + suffix


def _as_text(column: np.ndarray) -> np.ndarray:
    """Texts of fixed width, which need no pickle, in place of objects."""
    return column.astype(np.str_) if column.dtype == object else column
