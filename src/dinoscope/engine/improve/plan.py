"""What an improvement would do here, before it is begun."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dinoscope.config import ImproveOptions
from dinoscope.engine.improve.improve import first_model, resumable
from dinoscope.engine.improve.prepare import prepare
from dinoscope.errors import InputError
from dinoscope.project import opened
from dinoscope.types import ImageInput, Progress


@dataclass(frozen=True)
class ImprovePlan:
    """`enough` says whether a round can begin, `problems` why not or what is left out.

    `resumable` is the number of a round that was interrupted.
    """

    choice: str
    why: str
    seconds_per_step: float
    estimated_minutes: float
    validation: str
    enough: bool
    tasks: tuple[str, ...] = ()
    planes: int = 0
    pixels: Mapping[str, int] | None = None
    problems: tuple[str, ...] = ()
    resumable: int | None = None


def plan(
    project: str | Path,
    options: ImproveOptions | None = None,
    *,
    base: str | Path | None = None,
    images: Mapping[str, ImageInput] | None = None,
) -> Generator[Progress, None, ImprovePlan]:
    """Look at a project's annotations and at this machine; nothing is trained or written.

    Raises
    ------
    InputError
        The project or the model cannot be opened. Too few annotations are no error: `enough` is
        false.
    """
    options = options or ImproveOptions()
    with opened(project) as found:
        interrupted = resumable(found.folder)
        try:
            work = yield from prepare(
                found, options, str(base or first_model(found)), images, None, time.monotonic
            )
        except InputError as error:
            return ImprovePlan("", "", 0.0, 0.0, "", False, problems=(str(error),))
    judged = bool(work.holdout.parts[0].held)
    problems = list(work.material.problems)
    if not judged:
        problems.append("Annotate a second place of each class, so that one can judge the other.")
    return ImprovePlan(
        work.choice.tune,
        work.choice.why,
        work.choice.seconds_per_step,
        options.minutes * (1 + _AROUND),
        work.holdout.text,
        True,
        tuple(work.specs),
        len(work.material.planes),
        work.material.pixels_of() if "semantic" in work.specs else None,
        tuple(problems),
        interrupted,
    )


#: Reading, comparing and writing take about this share of the training on top.
_AROUND = 0.1
