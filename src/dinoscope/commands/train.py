"""``dinoscope train``: fine-tune a model on folders of images and labels."""

from __future__ import annotations

import argparse
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dinoscope.commands.arguments import (
    LineParser,
    Subparsers,
    add_command,
    add_option,
    axes_text,
    build,
)
from dinoscope.commands.inputs import make_folder, need_folder
from dinoscope.commands.loading import DEFAULT_MODEL, agreed
from dinoscope.commands.parts import (
    add_folds,
    add_split_flags,
    add_unlabelled_flags,
    group,
    split_options,
    unlabelled_images,
)
from dinoscope.commands.report import Report, duration
from dinoscope.config import TRAINABLE_TASKS, TrainOptions
from dinoscope.errors import InputError, MissingWeightsError, UsageError

if TYPE_CHECKING:
    from dinoscope.engine.dataset import TaskSource
    from dinoscope.engine.train import TrainSummary
    from dinoscope.types import Progress

SUFFIX = ".dinoscope"
Summary = TypeVar("Summary")


@dataclass(frozen=True)
class Folders:
    """One source of training data as the command line names it."""

    images: Path
    labels: Path
    task: str

    @property
    def names(self) -> frozenset[str]:
        """Every part of both paths: the names that ``--exclude`` can meet."""
        parts = (*self.images.resolve().parts, *self.labels.resolve().parts, self.labels.stem)
        return frozenset(part.casefold() for part in parts)


def add_parser(subparsers: Subparsers) -> None:
    """Describe the command's flags."""
    parser = add_command(
        subparsers,
        "train",
        "Fine-tune a model on images and labels that are paired by stem.",
        "dinoscope train --images img --labels lab --task instance --minutes 10 "
        "--output nuclei.dinoscope",
    )
    add_data_flags(parser)
    add_model_flags(parser)
    add_split_flags(parser)
    add_folds(parser)
    add_unlabelled_flags(parser)
    parser.add_argument(
        "--output", required=True, metavar=f"MODEL{SUFFIX}", help="The model file to write."
    )
    parser.set_defaults(run=run)


def add_data_flags(parser: LineParser) -> None:
    """Flags of images, labels and validation images."""
    data = parser.add_argument_group("data; each --images begins a new source")
    data.add_argument("--images", action="append", required=True, metavar="DIR", help="Images.")
    data.add_argument(
        "--labels",
        action="append",
        required=True,
        metavar="DIR",
        help="Labels: id images, class images (255 = ignore), float depth (NaN = ignore), "
        "or a CSV image,class.",
    )
    data.add_argument(
        "--task",
        action="append",
        required=True,
        choices=TRAINABLE_TASKS,
        help="What the labels are; given once, it holds for all sources.",
    )
    data.add_argument(
        "--val-images",
        action="append",
        metavar="DIR",
        help="Validation images, in the order of the sources (else a share of them is held out).",
    )
    data.add_argument("--val-labels", action="append", metavar="DIR", help="Their labels.")
    data.add_argument("--axes", type=axes_text, metavar="CYX", help="Axes of every image file.")
    data.add_argument(
        "--exclude",
        action="append",
        metavar="SET",
        help="Leave out sources with a folder of this name in their path; may be repeated.",
    )


def add_model_flags(parser: LineParser) -> None:
    """Flags of the base model and of the training itself."""
    model = parser.add_argument_group("model")
    base = model.add_mutually_exclusive_group()
    base.add_argument("--backbone", metavar="NAME", help="Begin with new heads on this backbone.")
    base.add_argument(
        "--from",
        dest="base",
        metavar="MODEL",
        help=f"Go on from this model, heads included (default {DEFAULT_MODEL}).",
    )
    model.add_argument(
        "--download",
        action="store_true",
        help="Download backbone weights that are not on this disk.",
    )
    add_option(model, TrainOptions, "tune", "--tune", metavar="HOW")
    add_option(model, TrainOptions, "lora_on", "--lora-on")
    add_option(model, TrainOptions, "lora_rank", "--lora-rank", int, "R")
    add_option(model, TrainOptions, "lora_alpha", "--lora-alpha", float, "A")
    add_option(model, TrainOptions, "lora_dropout", "--lora-dropout", float, "P")
    add_option(model, TrainOptions, "lora_targets", "--lora-targets", _names, "NAME,…")
    how = parser.add_argument_group("training")
    add_option(how, TrainOptions, "minutes", "--minutes", float, "M")
    add_option(how, TrainOptions, "epochs", "--epochs", int, "N")
    add_option(how, TrainOptions, "batch_size", "--batch-size", int, "N")
    add_option(how, TrainOptions, "learning_rate", "--learning-rate", float, "LR")
    add_option(how, TrainOptions, "weight_decay", "--weight-decay", float, "W")
    add_option(how, TrainOptions, "crop_px", "--crop", int, "PX")
    add_option(how, TrainOptions, "val_fraction", "--val-fraction", float, "F")
    add_option(how, TrainOptions, "balance", "--balance")
    add_option(how, TrainOptions, "loss_weights", "--loss-weights", _names, "TASK=W,…")
    add_option(how, TrainOptions, "schedule", "--schedule")
    add_option(how, TrainOptions, "patience", "--patience", int, "N")
    add_option(how, TrainOptions, "label_smoothing", "--label-smoothing", float, "S")
    add_option(how, TrainOptions, "class_weights", "--class-weights")
    add_option(how, TrainOptions, "depth_loss", "--depth-loss")
    add_option(how, TrainOptions, "token_cache_mb", "--token-cache-mb", float, "MB")
    add_option(how, TrainOptions, "blend", "--no-blend")
    add_option(how, TrainOptions, "diameter_px", "--diameter", float, "PX")
    add_option(how, TrainOptions, "seed", "--seed", int, "N")
    add_option(how, TrainOptions, "device", "--device")
    add_option(how, TrainOptions, "threads", "--threads", int, "N")
    add_option(how, TrainOptions, "include_backbone", "--include-backbone")
    add_option(how, TrainOptions, "resume", "--resume")


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def run(args: argparse.Namespace, report: Report) -> int:
    """Train, keeping the best checkpoint."""
    options = build(TrainOptions, args)
    return fit(args, report, options, *prepare(args, report))


def prepare(
    args: argparse.Namespace, report: Report
) -> tuple[list[Folders], list[Folders], Path, str]:
    """Training folders, validation folders, the file to write and the model to begin with.

    Raises
    ------
    UsageError, InputError
        Flags that do not fit together, folders that are not there.
    """
    sources = pair_up(args.images, args.labels, args.task)
    validation = pair_validation(args.val_images, args.val_labels, sources)
    output = Path(args.output)
    if output.suffix != SUFFIX:
        raise UsageError(f"--output is {args.output!r}", expected=f"a name that ends in {SUFFIX}")
    kept = exclude(sources, args.exclude or (), report)
    kept_validation = exclude(validation, args.exclude or (), report, told=False)
    if not kept:
        raise UsageError("--exclude left no source to train on", expected="at least one source")
    for source in (*kept, *kept_validation):
        need_folder(str(source.images), "images folder")
        if not source.labels.exists():
            raise InputError(
                f"labels {str(source.labels)!r} do not exist", expected="a folder or CSV"
            )
    base: str = args.backbone or args.base or DEFAULT_MODEL
    warn_of_leaks(base, args.exclude or (), report)
    make_folder(str(output.parent))
    return kept, kept_validation, output, base


def fit(
    args: argparse.Namespace,
    report: Report,
    options: TrainOptions,
    sources: Sequence[Folders],
    validation: Sequence[Folders],
    output: Path,
    base: str,
) -> int:
    """Run the training and tell what came of it."""
    from dinoscope.engine.train import train

    started = time.perf_counter()
    train_data, val_data = read_sources(args, sources), read_sources(args, validation)
    splits, unlabelled = split_options(args), unlabelled_images(args)
    train_data = group(train_data, args)
    new_heads = args.backbone is not None

    def attempt(allow_download: bool) -> TrainSummary:
        events = train(
            train_data,
            options,
            output=output,
            base=base,
            val_sources=val_data,
            new_heads=new_heads,
            allow_download=allow_download,
            splits=splits,
            unlabelled=unlabelled,
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
        outputs=[summary.output],
        model=output.stem,
        model_hash=summary.model_hash,
        device=summary.device,
        tasks=summary.tasks,
        seconds={"train": summary.seconds, "total": time.perf_counter() - started},
        scores=summary.scores,
        before=summary.before,
        steps=summary.steps,
        training_images=summary.training_images,
        validation_images=summary.validation_images,
        history=summary.history,
    )
    report.result(
        f"{summary.output}: {summary.steps} steps on {summary.training_images} images "
        f"in {duration(summary.seconds)}"
    )
    for name, score in summary.scores.items():
        if name == "score":  # the mean that the best checkpoint is chosen by
            continue
        was = f" (before: {summary.before[name]:.4f})" if name in summary.before else ""
        report.result(f"  {name}  {score:.4f}{was}")
    return 0


def read_sources(args: argparse.Namespace, folders: Sequence[Folders]) -> list[TaskSource]:
    """Images and labels of each pair of folders, paired by stem."""
    from dinoscope.engine.dataset import sources_from_folders

    return [sources_from_folders(f.images, f.labels, f.task, axes=args.axes) for f in folders]


def drive(events: Generator[Progress, None, Summary], report: Report) -> Summary:
    """Run a training (or a search) to its end, showing how it goes."""
    try:
        while True:
            tell(next(events), report)
    except StopIteration as stop:
        summary: Summary = stop.value
        return summary
    finally:
        events.close()


def tell(event: Progress, report: Report) -> None:
    """Show the loss as it goes; a validation is a line that stays."""
    values = dict(event.values)
    scores = {n: v for n, v in values.items() if n.startswith("val_") and n != "val_score"}
    if scores:
        shown = ", ".join(f"{name[4:]} {value:.4g}" for name, value in scores.items())
        report.say(f"validation ({event.message or event.step}): {shown}")
    told = [event.message] if event.message else []
    told += [f"{name} {values[name]:.4g}" for name in ("loss", "images_per_s") if name in values]
    report.progress(event.step, event.done, event.total, event.seconds_left, ", ".join(told))


def pair_up(images: Sequence[str], labels: Sequence[str], tasks: Sequence[str]) -> list[Folders]:
    """Sources from the repeated flags, paired in order.

    Raises
    ------
    UsageError
        Their numbers differ.
    """
    if len(tasks) == 1:
        tasks = [*tasks] * len(images)
    if not len(images) == len(labels) == len(tasks):
        raise UsageError(
            f"got {len(images)} --images, {len(labels)} --labels and {len(tasks)} --task",
            expected="one --labels and one --task for each --images",
        )
    return [Folders(Path(i), Path(l), t) for i, l, t in zip(images, labels, tasks, strict=True)]


def pair_validation(
    images: Sequence[str] | None, labels: Sequence[str] | None, sources: Sequence[Folders]
) -> list[Folders]:
    """Validation sources; the first one has the first source's task, and so on.

    Raises
    ------
    UsageError
        Images without labels or the other way round, or a task cannot be told.
    """
    images, labels = images or (), labels or ()
    if len(images) != len(labels):
        raise UsageError(
            f"got {len(images)} --val-images and {len(labels)} --val-labels",
            expected="as many of the one as of the other",
        )
    tasks = [source.task for source in sources]
    if len(set(tasks)) == 1:
        tasks = tasks[:1] * len(images)
    if len(images) > len(tasks):
        raise UsageError(
            f"got {len(images)} --val-images for {len(tasks)} sources of different tasks",
            expected="at most one for each --images, in the same order",
        )
    return [Folders(Path(i), Path(l), t) for i, l, t in zip(images, labels, tasks, strict=False)]


def exclude(
    sources: Sequence[Folders], names: Sequence[str], report: Report, *, told: bool = True
) -> list[Folders]:
    """`sources` without those that have one of `names` in their paths."""
    kept = list(sources)
    for name in names:
        hit = [s for s in kept if name.casefold() in s.names]
        kept = [s for s in kept if s not in hit]
        if told:
            left_out = ", ".join(str(s.images) for s in hit) or "nothing (no such folder)"
            report.note(f"--exclude {name} leaves out {left_out}")
    return kept


def warn_of_leaks(base: str, names: Sequence[str], report: Report) -> None:
    """Say where the base model itself was trained on a set that is to be left out."""
    from dinoscope.models.catalog import inspect

    if not names or not (base.endswith(SUFFIX) or Path(base).suffix == ""):
        return
    for name in names:
        if any(name.casefold() in data.casefold() for data in inspect(base).data):
            report.note(
                f"the base model {base!r} was itself trained on {name}; "
                "begin with another --from, or with --backbone"
            )
