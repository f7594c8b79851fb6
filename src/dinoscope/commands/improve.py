"""``dinoscope improve``: a better model from what is annotated in a project."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoscope.commands.arguments import Subparsers, add_command, add_option, build
from dinoscope.commands.loading import agreed
from dinoscope.commands.report import Report, duration, plain
from dinoscope.commands.train import drive
from dinoscope.config import ImproveOptions
from dinoscope.errors import MissingWeightsError, UsageError

if TYPE_CHECKING:
    from dinoscope.engine.improve.improve import ImproveSummary


def add_parser(subparsers: Subparsers) -> None:
    """Describe the command's flags."""
    parser = add_command(
        subparsers,
        "improve",
        "Train a better model on a project's annotations, and keep it where it is better.",
        "dinoscope improve cells.dinoproject --minutes 10",
    )
    parser.add_argument("project", metavar="PROJECT.dinoproject", help="The project's folder.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--plan", action="store_true", help="Only say what would be trained, and how long it takes."
    )
    what.add_argument("--rounds", action="store_true", help="Only list the rounds so far.")
    what.add_argument(
        "--use",
        type=int,
        metavar="N",
        help="Return to the model of round N (0 = the first one); nothing is trained.",
    )
    add_option(parser, ImproveOptions, "minutes", "--minutes", float, "M")
    add_option(parser, ImproveOptions, "steps", "--steps", int, "N")
    add_option(parser, ImproveOptions, "tune", "--tune", metavar="HOW")
    add_option(parser, ImproveOptions, "rank", "--lora-rank", int, "R")
    add_option(parser, ImproveOptions, "use_unlabelled", "--use-unlabelled")
    add_option(parser, ImproveOptions, "guide", "--no-guide")
    add_option(parser, ImproveOptions, "learning_rate", "--learning-rate", float, "LR")
    add_option(parser, ImproveOptions, "batch_size", "--batch-size", int, "N")
    add_option(parser, ImproveOptions, "crop_px", "--crop", int, "PX")
    add_option(parser, ImproveOptions, "token_cache_mb", "--token-cache-mb", float, "MB")
    add_option(parser, ImproveOptions, "seed", "--seed", int, "N")
    add_option(parser, ImproveOptions, "device", "--device")
    add_option(parser, ImproveOptions, "threads", "--threads", int, "N")
    add_option(parser, ImproveOptions, "resume", "--resume")
    parser.add_argument(
        "--from",
        dest="base",
        metavar="MODEL",
        help="Begin with this model (default: the one that the project uses).",
    )
    parser.add_argument(
        "--download",
        action="store_true",
        help="Download backbone weights that are not on this disk.",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, report: Report) -> int:
    """Do what was asked for."""
    folder = Path(args.project)
    if folder.suffix != ".dinoproject":
        raise UsageError(
            f"project is {args.project!r}", expected="a folder that ends in .dinoproject"
        )
    options = build(ImproveOptions, args)
    if args.rounds:
        return list_rounds(folder, report)
    if args.use is not None:
        return use(folder, args.use, report)
    if args.plan:
        return tell_plan(args, folder, options, report)
    from dinoscope.engine.improve.improve import improve

    def attempt(allow_download: bool) -> ImproveSummary:
        events = improve(folder, options, base=args.base, allow_download=allow_download)
        return drive(events, report)

    try:
        summary = attempt(args.download)
    except MissingWeightsError as missing:
        if args.download or not agreed(f"{missing.what}. Download them now?"):
            raise
        summary = attempt(True)
    for note in summary.notes:
        report.note(note)
    found = plain(asdict(summary))
    report.document.update(
        {n: v for n, v in found.items() if n not in ("output", "seconds", "notes")},
        outputs=[summary.output],
        seconds={"total": summary.seconds},
    )
    report.result(f"round {summary.round}: {summary.output} in {duration(summary.seconds)}")
    report.result(f"  judged on {summary.validation}")
    _tell_scores(summary.before, summary.after, report)
    kept = "the new model is in use" if summary.kept == "new" else "the old model stays in use"
    report.result(f"  {kept}")
    return 0


def _tell_scores(before: Mapping[str, float], after: Mapping[str, float], report: Report) -> None:
    for name, score in after.items():
        if name != "score":  # their mean
            was = f" (before: {before[name]:.4f})" if name in before else ""
            report.result(f"  {name}  {score:.4f}{was}")


def tell_plan(
    args: argparse.Namespace, folder: Path, options: ImproveOptions, report: Report
) -> int:
    """What would be trained; status 1 where too little is annotated."""
    from dinoscope.engine.improve.plan import plan

    found = drive(plan(folder, options, base=args.base), report)
    report.document.update(plain(asdict(found)))
    for problem in found.problems:
        report.note(problem)
    if not found.enough:
        report.result("There is too little annotated to improve a model.")
        return 1
    report.result(found.why)
    report.result(f"judged on {found.validation}")
    report.result(f"about {found.estimated_minutes:.3g} minutes")
    if found.resumable is not None:
        report.result(f"round {found.resumable} was interrupted: --resume goes on with it")
    return 0


def list_rounds(folder: Path, report: Report) -> int:
    """One line for each round."""
    from dinoscope.project import opened

    with opened(folder) as project:
        rounds, current = project.rounds, project.current_round
        report.document.update(current=current, rounds=[_facts(r, folder) for r in rounds])
        report.result(f"{'*' if current == 0 else ' '} 0  the model that the project began with")
        for entry in rounds:
            mark = "*" if entry.number == current else " "
            scores = f"{entry.before.get('score', 0):.3f} to {entry.after.get('score', 0):.3f}"
            said = f"{entry.tune}, score {scores}" if entry.state == "done" else "interrupted"
            report.result(f"{mark} {entry.number}  {entry.date[:16].replace('T', ' ')}  {said}")
    return 0


def _facts(entry: Any, folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = plain(asdict(entry))
    return values | {"model": str(folder / entry.model) if entry.model else ""}


def use(folder: Path, number: int, report: Report) -> int:
    """Return to a round."""
    from dinoscope.project import Project

    with Project.open(folder, read_only=False) as project:
        project.use_round(number)
        model = project.model()
    report.document.update(current=number, model=None if model is None else str(model))
    report.result(f"round {number} is in use" + (f": {model}" if model else ""))
    return 0
