"""The stages of a round, each with a checkpoint, a model and its scores, so that it can go on."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dinoscope.errors import ModelFileError
from dinoscope.models.checkpoint import load_model, save_model
from dinoscope.models.model import Model
from dinoscope.project.snapshot import write_json
from dinoscope.types import Progress


@dataclass(frozen=True)
class StageResult:
    """A finished stage: where its model is, its scores, steps and history."""

    name: str
    path: Path
    scores: Mapping[str, float]
    steps: int
    history: tuple[Mapping[str, float], ...]


class Notebook:
    """What a round has found so far, as a JSON file in its folder.

    Everything is plain values under a name; :meth:`get` gives them back after a crash.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "progress.json"
        self._values: dict[str, Any] = {}
        if self._path.is_file():
            try:
                self._values = dict(json.loads(self._path.read_text(encoding="utf-8")))
            except ValueError:  # begun anew: checkpoints that fit are still used
                self._values = {}

    def get(self, name: str) -> Any:
        """What was noted, or ``None``."""
        return self._values.get(name)

    def note(self, name: str, value: Any) -> None:
        """Note plain values."""
        self._values[name] = value
        write_json(self._path, self._values)

    def stage(self, name: str) -> StageResult | None:
        """A stage that was finished, where its model is still there and whole."""
        told = self.get(f"stage {name}")
        path = self.folder / f"{name}.dinoscope"
        if told is None or not path.is_file():
            return None
        try:
            load_model(path, device="cpu")
        except ModelFileError:
            return None
        return StageResult(name, path, told["scores"], told["steps"], tuple(told["history"]))

    def finish(
        self,
        name: str,
        model: Model,
        scores: Mapping[str, float],
        steps: int,
        history: Sequence[Mapping[str, float]],
    ) -> StageResult:
        """Keep a stage's model and scores; its checkpoint goes."""
        path = self.folder / f"{name}.dinoscope"
        save_model(model, path, include_backbone=True)
        lines = [dict(line) for line in history]
        self.note(f"stage {name}", {"scores": dict(scores), "steps": steps, "history": lines})
        self.checkpoint(name).unlink(missing_ok=True)
        return StageResult(name, path, dict(scores), steps, tuple(lines))

    def checkpoint(self, name: str) -> Path:
        """Where a stage keeps its checkpoint."""
        return self.folder / f"{name}.ckpt"

    def clean(self, keep: Path) -> None:
        """Remove the notes, models of stages and checkpoints, but for `keep`."""
        left = ("*.dinoscope", "*.ckpt*", self._path.name)
        for path in [p for pattern in left for p in self.folder.glob(pattern)]:
            if path != keep:
                path.unlink(missing_ok=True)


def told(
    events: Generator[Progress, None, Any], prefix: str, begin: float, share: float, seconds: float
) -> Generator[Progress, None, Any]:
    """Events of one stage as part of the whole: `begin` and `share` of the round, whose length is
    `seconds`."""
    try:
        while True:
            event = next(events)
            if event.step != "train":
                yield event
                continue
            done = begin + share * min(1.0, event.done / max(1, event.total))
            left = (event.seconds_left or 0.0) + seconds * max(0.0, 1 - begin - share)
            yield replace(
                event,
                done=int(1000 * done),
                total=1000,
                seconds_left=left if event.seconds_left is not None else None,
                message=f"{prefix}: {event.message}",
            )
    except StopIteration as stop:
        return stop.value
    finally:
        events.close()
