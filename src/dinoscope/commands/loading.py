"""Loading a model for a command: from where, may it be downloaded, what can it do."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dinoscope.commands.report import Report
from dinoscope.errors import MissingHeadError, MissingWeightsError

if TYPE_CHECKING:
    from dinoscope.models.model import Model
    from dinoscope.types import Progress

#: Tasks that every backbone can do.
HEADLESS_TASKS = frozenset({"pca"})
DEFAULT_MODEL = "embedded"


def load(name: str, report: Report, *, device: str = "auto", download: bool = False) -> Model:
    """Load a model; where weights are missing, ask once if somebody sits at the terminal.

    Raises
    ------
    MissingWeightsError
        Weights are not on this disk, and were not to be downloaded.
    """
    from dinoscope.models.checkpoint import load_model

    report.document["model"] = name
    started = time.perf_counter()
    show = progress_in(report)
    try:
        model = load_model(name, device=device, allow_download=download, progress=show)
    except MissingWeightsError as missing:
        if download or not agreed(f"{missing.what}. Download them now?"):
            raise
        model = load_model(name, device=device, allow_download=True, progress=show)
    report.document["model"] = model.card.name
    report.document["seconds"] = {"load": time.perf_counter() - started}
    return model


def agreed(question: str) -> bool:
    """Ask a yes-or-no question; no where nobody can answer."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def progress_in(report: Report) -> Callable[[Progress], None]:
    """A callback that shows :class:`~dinoscope.types.Progress` values."""

    def show(progress: Progress) -> None:
        report.progress(
            progress.step, progress.done, progress.total, progress.seconds_left, progress.message
        )

    return show


def require_heads(model: str, tasks: Sequence[str]) -> None:
    """Check by its card, before anything heavy is loaded, that a model has a head for each task.

    Raises
    ------
    MissingHeadError
        Names the models that have the missing one.
    """
    from dinoscope.models.catalog import inspect, lent_tasks, locate
    from dinoscope.models.container import SUFFIX

    found = locate(model)
    is_weights = isinstance(found, Path) and found.suffix != SUFFIX
    heads: tuple[str, ...] = ()
    if not is_weights:
        card = inspect(model)
        heads = (*card.heads, *lent_tasks(card))
    missing = [t for t in tasks if t not in HEADLESS_TASKS and t not in heads]
    if not missing:
        return
    from dinoscope.models.catalog import list_models

    task = missing[0]
    able = [str(m["name"]) for m in list_models() if task in (m.get("tasks") or ())]
    hint = (
        "Models that have one: " + ", ".join(able) + "."
        if able
        else "No installed model has one: make it with 'dinoscope train'."
    )
    has = ", ".join([*heads, *sorted(HEADLESS_TASKS)])
    raise MissingHeadError(
        f"model {model!r} has no head for {task!r} (it can do: {has})", hint=hint
    )
