"""Rounds of improvement: each a folder with its model, its numbers and, while it runs, its state.

They are files of their own, not records of the journal: the worker writes them while the window
holds the project, and a round that was killed is found by what it left.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dinoscope.arrays.output import output_error
from dinoscope.errors import InputError
from dinoscope.project.snapshot import write_json

ROUNDS = "rounds"
CURRENT = "current.json"
_RECORD = "round.json"
MODEL = "model.dinoscope"


@dataclass(frozen=True)
class Round:
    """One round; `before` and `after` are scores on the same held-out annotations.

    `state` is ``training`` until it is ``done``; `kept` is what was chosen then, ``"new"`` or
    ``"old"``. `base` is the model that it began with (a name, or a file).
    """

    number: int
    base: str
    date: str
    state: str = "training"
    tune: str = ""
    model: str = ""
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    better: bool = False
    kept: str = ""
    validation: str = ""
    minutes: float = 0.0
    notes: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Mapping[str, float], ...] = ()


def round_folder(folder: Path, number: int) -> Path:
    """Where round `number` of the project in `folder` lies."""
    return folder / ROUNDS / f"{number:03d}"


def read_rounds(folder: Path) -> list[Round]:
    """All rounds, the first one first; what cannot be read is left out."""
    found = []
    for path in sorted((folder / ROUNDS).glob(f"[0-9]*/{_RECORD}")):
        try:
            found.append(_from_json(json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            continue  # begun in this moment, or damaged: its model may still be there
    return sorted(found, key=lambda r: r.number)


def begin_round(folder: Path, base: str, options: Mapping[str, Any]) -> Round:
    """Begin the next round; its number is one that no folder has."""
    taken = [int(p.name) for p in (folder / ROUNDS).glob("*") if re.fullmatch(r"\d+", p.name)]
    made = Round(max(taken, default=0) + 1, base, _now(), options=dict(options))
    try:
        round_folder(folder, made.number).mkdir(parents=True)
    except OSError as error:
        raise output_error(round_folder(folder, made.number), error) from error
    write_round(folder, made)
    return made


def write_round(folder: Path, entry: Round) -> None:
    """Write what is known of a round.

    Raises
    ------
    OutputError
        The disk is full or has gone.
    """
    write_json(round_folder(folder, entry.number) / _RECORD, asdict(entry))


def current_round(folder: Path) -> int:
    """The round whose model is in use; 0 = the model that the project began with."""
    try:
        values = json.loads((folder / ROUNDS / CURRENT).read_text(encoding="utf-8"))
        return int(values["round"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def use_round(folder: Path, number: int) -> None:
    """Make the model of round `number` the one in use; 0 = the first one.

    Raises
    ------
    InputError
        There is no such round, or it has no model.
    OutputError
        The disk is full or has gone.
    """
    if number:
        known = {r.number for r in read_rounds(folder)}
        if number not in known or model_file(folder, number) is None:
            raise InputError(
                f"round {number} has no model",
                expected="0 (the first model), or one of "
                + (", ".join(str(n) for n in sorted(known)) or "none yet"),
            )
    path = folder / ROUNDS / CURRENT
    write_json(path, {"round": number, "date": _now()})


def model_file(folder: Path, number: int) -> Path | None:
    """The model of a round, where it is finished and there."""
    for entry in read_rounds(folder):
        if entry.number == number and entry.model:
            path = folder / entry.model
            return path if path.is_file() else None
    return None


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _from_json(values: Mapping[str, Any]) -> Round:
    known = {name: values[name] for name in Round.__dataclass_fields__ if name in values}
    known["notes"] = tuple(known.get("notes", ()))
    known["history"] = tuple(dict(h) for h in known.get("history", ()))
    return Round(**known)
