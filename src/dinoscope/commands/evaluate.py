"""``dinoscope evaluate``: score predictions, or a model on a folder, against the truth."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoscope.commands.arguments import Subparsers, add_command, add_option, axes_text, build
from dinoscope.commands.inputs import make_folder
from dinoscope.commands.loading import load, progress_in, require_heads
from dinoscope.commands.report import Report
from dinoscope.config import TRAINABLE_TASKS, EvaluateOptions, PredictOptions
from dinoscope.errors import InputError, UsageError

if TYPE_CHECKING:
    from dinoscope.engine.evaluate import Evaluation

#: What ``--compare`` and ``--model`` may name besides a folder.
_MODEL_SUFFIX = ".dinoscope"


def add_parser(subparsers: Subparsers) -> None:
    """Describe the command's flags."""
    parser = add_command(
        subparsers,
        "evaluate",
        "Score predictions, or a model, against the truth, image by image.",
        "dinoscope evaluate --predictions results --truth labels --task instance --report report",
    )
    parser.add_argument(
        "--predictions", metavar="DIR", help="Folder that predict wrote (or its CSV)."
    )
    parser.add_argument(
        "--truth", required=True, metavar="DIR", help="Folder of label images, or CSV image,class."
    )
    parser.add_argument("--task", required=True, choices=TRAINABLE_TASKS, help="What is scored.")
    parser.add_argument(
        "--model", metavar="NAME|FILE", help="Run this model on --images instead of --predictions."
    )
    parser.add_argument(
        "--images",
        metavar="DIR",
        help="Folder of the images: for --model, for pictures, for the focus baseline of depth.",
    )
    parser.add_argument(
        "--compare",
        metavar="DIR|MODEL",
        help="Other predictions of the same truth (or, with --model, another model).",
    )
    parser.add_argument(
        "--report", metavar="DIR", help="Write report.html, evaluation.json and tables there."
    )
    parser.add_argument(
        "--groups",
        metavar="CSV",
        help="Table image,group: images of a group are drawn together for the intervals.",
    )
    add_option(parser, EvaluateOptions, "fault_threshold", "--fault-threshold", float, "IOU")
    add_option(
        parser, EvaluateOptions, "boundary_tolerance_px", "--boundary-tolerance", float, "PX"
    )
    add_option(parser, EvaluateOptions, "worst", "--worst", int, "N")
    add_option(parser, EvaluateOptions, "depth_unit", "--depth-unit", str, "UNIT")
    running = parser.add_argument_group("with --model")
    running.add_argument("--axes", type=axes_text, metavar="CYX", help="Axes of every image.")
    running.add_argument(
        "--download", action="store_true", help="Download backbone weights not on this disk."
    )
    add_option(running, PredictOptions, "diameter_px", "--diameter", float, "PX")
    add_option(running, PredictOptions, "device", "--device")
    add_option(running, PredictOptions, "threads", "--threads", int, "N")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, report: Report) -> int:
    """Print the scores: means over the images, which are paired by stem."""
    _check(args)
    started = time.perf_counter()
    truth = existing(args.truth, "--truth")
    folder = make_folder(args.report) if args.report else None
    with contextlib.ExitStack() as stack:
        kept = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        first, about = _one(args, report, truth, args.model, args.predictions, kept)
        shown = {_name(args.model or args.predictions): first}
        facts: dict[str, Any] = {"task": args.task, "truth": str(truth), **about}
        comparison = None
        if args.compare:
            model = args.compare if args.model and not Path(args.compare).is_dir() else None
            second, other = _one(args, report, truth, model, args.compare, kept, "_2")
            shown[_other_name(_name(args.compare), list(shown))] = second
            facts["compared_with"] = other
            from dinoscope.engine.evaluate.compare import compare

            comparison = compare(first, second, _groups(args))
    report.document.update(
        task=args.task, predictions=about["predictions"], truth=str(truth), **first.document()
    )
    if comparison is not None:
        report.document["comparison"] = comparison.document()
    if folder is not None:
        from dinoscope.engine.report import write_report

        files = write_report(folder, shown, facts, comparison)
        report.document["report"] = {kind: str(path) for kind, path in files.items()}
    seconds = report.document.get("seconds", {})
    report.document["seconds"] = {**seconds, "evaluate": time.perf_counter() - started}
    _print(report, first)
    if comparison is not None:
        report.result(comparison.verdict())
    if folder is not None:
        report.result(f"report: {folder / 'report.html'}")
    return 0


def _check(args: argparse.Namespace) -> None:
    if bool(args.predictions) == bool(args.model):
        raise UsageError(
            "both --predictions and --model were given"
            if args.model
            else "neither --predictions nor --model was given",
            expected="one of the two",
        )
    if args.model and not args.images:
        raise UsageError("--model was given without --images", hint="Add --images DIR.")


def _one(
    args: argparse.Namespace,
    report: Report,
    truth: Path,
    model: str | None,
    predictions: str | None,
    folder: Path,
    tail: str = "",
) -> tuple[Evaluation, dict[str, Any]]:
    """One evaluation and what it was made of."""
    from dinoscope.engine.evaluate import evaluate_files

    images = existing(args.images, "--images") if args.images else None
    about: dict[str, Any] = {"images": str(images)} if images is not None else {}
    options = build(EvaluateOptions, args)
    if model is None:
        path = existing(predictions or "", "--compare" if tail else "--predictions")
    else:
        path = folder / f"predictions{tail}"
        about["model"] = _predict(args, report, model, truth, path)
        unit = about["model"]["depth_unit"]
        if not options.depth_unit and unit != "relative":
            options = build(EvaluateOptions, args, depth_unit=unit)
    about["predictions"] = str(predictions if model is None else path)
    found = evaluate_files(path, truth, args.task, options, images=images, groups=_groups(args))
    for note in found.notes:
        report.note(note)
    return found, about


def _predict(
    args: argparse.Namespace, report: Report, name: str, truth: Path, output: Path
) -> dict[str, Any]:
    """Run the model over the images that have a truth; returns its card and what was run."""
    from dinoscope.engine.evaluate.folder import predict_folder

    require_heads(name, (args.task,))
    options = build(PredictOptions, args, tasks=(args.task,))
    model = load(name, report, device=options.device, download=args.download)
    show = progress_in(report)
    steps = predict_folder(model, Path(args.images), truth, options, output, args.axes)
    try:
        while True:
            show(next(steps))
    except StopIteration as stop:
        done: Mapping[str, Any] = stop.value
    card = {k: v for k, v in model.card.to_json().items() if k not in ("name", "training")}
    return {**done, "card": card}


def _groups(args: argparse.Namespace) -> dict[str, str] | None:
    from dinoscope.engine.evaluate.cases import read_groups

    return read_groups(existing(args.groups, "--groups")) if args.groups else None


def _print(report: Report, found: Evaluation) -> None:
    for name, value in found.scores.items():
        if isinstance(value, float):
            low, high = found.intervals.get(name, (None, None))
            span = f"  [{low:.4f}, {high:.4f}]" if low is not None else ""
            report.result(f"{name:>12}  {value:.4f}{span}")
        elif isinstance(value, int | str):
            report.result(f"{name:>12}  {value}")


def _name(text: str) -> str:
    path = Path(text)
    return path.stem if path.suffix == _MODEL_SUFFIX else path.name or text


def _other_name(name: str, taken: list[str]) -> str:
    return name if name not in taken else f"{name} (2)"


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
