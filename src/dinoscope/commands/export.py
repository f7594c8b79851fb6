"""``dinoscope export``: a whole model for other programs, checked against the model itself."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dinoscope.commands.arguments import Subparsers, add_command, comma_list, flatten
from dinoscope.commands.loading import load, progress_in
from dinoscope.commands.report import Report
from dinoscope.errors import OutputError, UsageError

if TYPE_CHECKING:
    from dinoscope.engine.exporting import Exported

_FORMATS = ("onnx", "openvino", "bioimage.io")
_PRECISIONS = ("fp32", "fp16", "int8")
_OPSET = 17


def add_parser(subparsers: Subparsers) -> None:
    """Describe the command's flags."""
    parser = add_command(
        subparsers,
        "export",
        "Write a whole model as ONNX, OpenVINO or a bioimage.io package, and check it.",
        "dinoscope export embedded --format onnx --output embedded.onnx",
    )
    parser.add_argument("model", metavar="MODEL", help="A name from 'dinoscope models', or a file.")
    parser.add_argument("--format", choices=_FORMATS, default="onnx", help="Default onnx.")
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="Ends in .onnx, .xml or .zip."
    )
    parser.add_argument(
        "--task",
        dest="task_lists",
        action="append",
        type=comma_list,
        metavar="TASK[,TASK]",
        help="Heads to export (default all).",
    )
    parser.add_argument(
        "--precision",
        dest="precision_lists",
        action="append",
        type=comma_list,
        metavar="P[,P]",
        help="Some of fp32, fp16, int8; each becomes a file (default fp32).",
    )
    parser.add_argument(
        "--calibrate", metavar="DIR", help="Images that int8 is calibrated on: your own."
    )
    parser.add_argument(
        "--opset", type=int, default=_OPSET, metavar="N", help=f"ONNX opset (default {_OPSET})."
    )
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="CPU threads (0 = all)."
    )
    parser.add_argument(
        "--download",
        action="store_true",
        help="Download backbone weights that are not on this disk.",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, report: Report) -> int:
    """Write the files, print how they differ from the model."""
    path = Path(args.output).expanduser()
    if not path.parent.is_dir():
        raise OutputError(f"folder {str(path.parent)!r} does not exist", hint="Make it first.")
    from dinoscope.engine.exporting import ExportOptions, export, paths_in, table

    calibration = paths_in(Path(args.calibrate).expanduser()) if args.calibrate else ()
    options = ExportOptions(
        format=args.format,
        tasks=flatten(args.task_lists),
        precisions=flatten(args.precision_lists) or ("fp32",),
        opset=args.opset,
        calibration=calibration,
        threads=args.threads,
    )
    if args.threads < 0:
        raise UsageError(f"threads is {args.threads}", expected="0 or more")
    from dinoscope.models.device import set_threads

    set_threads(args.threads)
    model = load(args.model, report, device="cpu", download=args.download)
    show = progress_in(report)
    steps = export(model, path, options)
    done: list[Exported] = []
    while True:
        try:
            show(next(steps))
        except StopIteration as stop:
            done = stop.value
            break
    report.document["files"] = [entry.to_json() for entry in done]
    report.document["opset"] = options.opset
    for entry in done:
        if not entry.accepted:
            report.note(f"{entry.path.name} finds other objects than the model: do not use it")
    for line in table(done):
        report.result(line)
    report.result(f"opset {options.opset}; details in {path.with_suffix('.json').name}")
    return 0
