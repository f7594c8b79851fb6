"""``dinoscope search``: try learning rates, ranks and blocks; keep what validates best."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from dinoscope.commands.arguments import Subparsers, add_command, add_option, build, comma_list
from dinoscope.commands.loading import agreed
from dinoscope.commands.parts import (
    add_split_flags,
    add_unlabelled_flags,
    group,
    split_options,
    unlabelled_images,
)
from dinoscope.commands.report import Report, duration
from dinoscope.commands.train import (
    SUFFIX,
    add_data_flags,
    add_model_flags,
    drive,
    prepare,
    read_sources,
)
from dinoscope.config import SearchOptions, TrainOptions
from dinoscope.errors import MissingWeightsError, UsageError

if TYPE_CHECKING:
    from dinoscope.engine.search import SearchSummary

#: Columns of the printed table, before the scores.
_COLUMNS = ("round", "trial", "learning_rate", "lora_rank", "tune", "steps", "score")


def add_parser(subparsers: Subparsers) -> None:
    """Describe the command's flags."""
    parser = add_command(
        subparsers,
        "search",
        "Try learning rates, LoRA ranks and blocks; keep the model that validates best.",
        "dinoscope search --images img --labels lab --task instance --minutes-each 2 "
        "--output nuclei.dinoscope",
    )
    add_data_flags(parser)
    grid = parser.add_argument_group("what is tried; each of them with commas between")
    add_option(grid, SearchOptions, "learning_rates", "--learning-rates", numbers, "LR,…")
    add_option(grid, SearchOptions, "ranks", "--ranks", whole_numbers, "R,…")
    add_option(grid, SearchOptions, "tunes", "--tunes", comma_list, "HOW,…")
    add_option(grid, SearchOptions, "trials", "--trials", int, "N")
    add_option(grid, SearchOptions, "minutes_each", "--minutes-each", float, "M")
    add_option(grid, SearchOptions, "epochs_each", "--epochs-each", int, "N")
    add_option(grid, SearchOptions, "halving", "--no-halving")
    add_model_flags(parser)
    add_split_flags(parser)
    add_unlabelled_flags(parser)
    parser.add_argument(
        "--output", required=True, metavar=f"MODEL{SUFFIX}", help="The model file to write."
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, report: Report) -> int:
    """Search, print the table and what was kept."""
    options, settings = build(TrainOptions, args), settings_from(args)
    folders, validation, output, base = prepare(args, report)
    from dinoscope.engine.search import search

    sources = group(read_sources(args, folders), args)
    val_sources = read_sources(args, validation)
    splits, unlabelled = split_options(args), unlabelled_images(args)

    def attempt(allow_download: bool) -> SearchSummary:
        events = search(
            sources,
            options,
            settings,
            output=output,
            base=base,
            val_sources=val_sources,
            splits=splits,
            unlabelled=unlabelled,
            new_heads=args.backbone is not None,
            allow_download=allow_download,
        )
        return drive(events, report)

    try:
        summary = attempt(args.download)
    except MissingWeightsError as missing:
        if args.download or not agreed(f"{missing.what}. Download them now?"):
            raise
        summary = attempt(True)
    for note in summary.notes:
        report.note(note)
    report.document.update(
        outputs=[summary.output, summary.table],
        model=output.stem,
        model_hash=summary.model_hash,
        seconds={"total": summary.seconds},
        scores=summary.scores,
        best=summary.best,
        trials=summary.rows,
    )
    for line in table(summary):
        report.result(line)
    report.result(
        f"{summary.output}: trial {summary.best['trial']} of {summary.table}, "
        f"in {duration(summary.seconds)}"
    )
    for name, score in summary.scores.items():
        if name != "score":
            report.result(f"  {name}  {score:.4f}")
    return 0


def settings_from(args: argparse.Namespace) -> SearchOptions:
    """What is tried; a flag of ``train`` such as ``--tune`` stands for a single value.

    Raises
    ------
    UsageError
        A value is out of range, or a length of training is given in the words of ``train``.
    """
    for flag in ("minutes", "epochs"):
        if hasattr(args, flag):
            raise UsageError(
                f"--{flag} is given to a search",
                expected=f"--{flag}-each, for the trials of the first round",
            )
    single = (("learning_rate", "learning_rates"), ("lora_rank", "ranks"), ("tune", "tunes"))
    fixed = {
        many: (getattr(args, one),)
        for one, many in single
        if hasattr(args, one) and not hasattr(args, many)
    }
    return build(SearchOptions, args, **fixed)


def table(summary: SearchSummary) -> list[str]:
    """The trials as lines of text with aligned columns."""
    rows = [[_shown(name, row.get(name, "")) for name in _COLUMNS] for row in summary.rows]
    lines = [list(_COLUMNS), *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_COLUMNS))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def _shown(name: str, value: object) -> str:
    if name == "round":
        return str(int(str(value)) + 1)
    if name == "score":
        return f"{float(str(value)):.4f}" if value != "" else "failed"
    return f"{value:g}" if isinstance(value, float) else str(value)


def numbers(text: str) -> tuple[float, ...]:
    """``1e-4,1e-3`` as numbers."""
    return tuple(float(part) for part in comma_list(text))


def whole_numbers(text: str) -> tuple[int, ...]:
    """``4,16`` as whole numbers."""
    return tuple(int(part) for part in comma_list(text))
