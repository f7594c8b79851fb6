"""``dinoscope evaluate``: score predictions against the truth."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from dinoscope.commands.arguments import Subparsers, add_command
from dinoscope.commands.report import Report
from dinoscope.config import TRAINABLE_TASKS
from dinoscope.errors import InputError


def add_parser(subparsers: Subparsers) -> None:
    """Describe the command's flags."""
    parser = add_command(
        subparsers,
        "evaluate",
        "Score predictions against the truth, image by image.",
        "dinoscope evaluate --predictions results --truth labels --task instance",
    )
    parser.add_argument(
        "--predictions",
        required=True,
        metavar="DIR",
        help="Folder that predict wrote (or its CSV).",
    )
    parser.add_argument(
        "--truth", required=True, metavar="DIR", help="Folder of label images, or CSV image,class."
    )
    parser.add_argument("--task", required=True, choices=TRAINABLE_TASKS, help="What is scored.")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, report: Report) -> int:
    """Print the scores: means over the images, which are paired by stem."""
    from dinoscope.engine.evaluate import evaluate

    started = time.perf_counter()
    predictions, truth = (
        existing(args.predictions, "--predictions"),
        existing(args.truth, "--truth"),
    )
    scores = evaluate(predictions, truth, args.task)
    report.document.update(task=args.task, predictions=str(predictions), truth=str(truth), **scores)
    report.document["seconds"] = {"evaluate": time.perf_counter() - started}
    for name, value in scores.items():
        if isinstance(value, float):
            report.result(f"{name:>12}  {value:.4f}")
        elif isinstance(value, int | str):
            report.result(f"{name:>12}  {value}")
    return 0


def existing(text: str, flag: str) -> Path:
    """A path that is there.

    Raises
    ------
    InputError
        It is not.
    """
    path = Path(text)
    if not path.exists():
        raise InputError(f"{flag} {text!r} does not exist", expected="a folder or a CSV file")
    return path
