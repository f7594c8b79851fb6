"""``dinoscope benchmark``: how fast a model is on this machine, by runtime, size and batch."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from dinoscope.commands.arguments import (
    Subparsers,
    add_command,
    add_option,
    build,
    comma_list,
    flatten,
)
from dinoscope.commands.loading import DEFAULT_MODEL, load
from dinoscope.commands.report import Report
from dinoscope.config import RUNTIMES, PredictOptions
from dinoscope.errors import DinoscopeError, OutputError, UsageError

_SIZES, _BATCHES = (224, 518), (1, 4)


def add_parser(subparsers: Subparsers) -> None:
    """Describe the command's flags."""
    parser = add_command(
        subparsers,
        "benchmark",
        "Measure how fast a model is on this machine.",
        "dinoscope benchmark --size 518 --batch 1,4 --plot speed.svg",
    )
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, metavar="NAME|FILE", help=f"Default {DEFAULT_MODEL}."
    )
    parser.add_argument(
        "--size", type=_numbers, default=_SIZES, metavar="PX[,PX]", help="Sides (default 224,518)."
    )
    parser.add_argument(
        "--batch", type=_numbers, default=_BATCHES, metavar="N[,N]", help="Batches (default 1,4)."
    )
    parser.add_argument(
        "--runtime",
        dest="runtime_lists",
        action="append",
        type=comma_list,
        metavar="R[,R]",
        help="Some of torch, compile, openvino, onnxruntime (default all installed but compile).",
    )
    add_option(parser, PredictOptions, "device", "--device")
    add_option(parser, PredictOptions, "threads", "--threads", int, "N")
    parser.add_argument("--plot", metavar="FILE", help="Also draw the rows, as SVG.")
    parser.add_argument(
        "--download",
        action="store_true",
        help="Download backbone weights that are not on this disk.",
    )
    parser.set_defaults(run=run)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in comma_list(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected whole numbers") from None


def run(args: argparse.Namespace, report: Report) -> int:
    """Measure, print the table, draw the plot."""
    plot_path = Path(args.plot).expanduser() if args.plot else None
    if plot_path is not None and plot_path.suffix != ".svg":
        raise UsageError(f"plot is {plot_path.name!r}", expected="a name that ends in .svg")
    runtimes = flatten(args.runtime_lists)
    unknown = [r for r in runtimes if r not in RUNTIMES[1:]]
    if unknown:
        raise UsageError(f"runtime is {unknown[0]!r}", expected=", ".join(RUNTIMES[1:]))
    from dinoscope.engine.timing import machine, plot, table
    from dinoscope.models.device import pick_device, set_threads
    from dinoscope.models.runtime.engines import installed, require

    options = build(PredictOptions, args, tasks=("pca",))
    device = pick_device(options.device)
    for runtime in runtimes:
        require(runtime, device)
    if not runtimes:
        others = [r for r in ("openvino", "onnxruntime") if device == "cpu" and installed(r)]
        runtimes = ("torch", *others)
    set_threads(options.threads)
    report.document["machine"] = machine()
    rows: list[dict[str, Any]] = []
    if len(runtimes) == 1:
        rows = _here(args, report, build(PredictOptions, args, tasks=("pca",), runtime=runtimes[0]))
    else:
        for number, runtime in enumerate(runtimes):
            report.progress("benchmark", number, len(runtimes), text=runtime)
            rows += _in_a_process(args, report, runtime)
    report.document["rows"] = rows
    facts = report.document["machine"]
    title = f"{args.model} on {facts['processor']}, {facts['threads']} threads"
    report.result(title)
    for line in table(rows):
        report.result(line)
    if plot_path is not None:
        try:
            plot_path.write_text(plot(rows, title), encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"{str(plot_path)!r} cannot be written ({error.strerror or error})",
                hint="Choose an existing folder that you may write to.",
            ) from error
    return 0


def _here(
    args: argparse.Namespace, report: Report, options: PredictOptions
) -> list[dict[str, Any]]:
    from dinoscope.engine.timing import measure

    model = load(args.model, report, device=options.device, download=args.download)
    rows, notes = measure(model, options, args.size, args.batch)
    for note in notes:
        report.note(note)
    return [row.to_json() for row in rows]


def _in_a_process(args: argparse.Namespace, report: Report, runtime: str) -> list[dict[str, Any]]:
    """One runtime in a process of its own: its peak memory is nobody else's.

    Raises
    ------
    DinoscopeError
        It failed; the text is the process's own.
    """
    command = [sys.executable, "-m", "dinoscope", "benchmark", "--json", "--model", args.model]
    command += ["--runtime", runtime, "--size", ",".join(map(str, args.size))]
    command += ["--batch", ",".join(map(str, args.batch))]
    for name in ("device", "threads"):
        if hasattr(args, name):
            command += [f"--{name}", str(getattr(args, name))]
    if args.download:
        command.append("--download")
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        document = json.loads(done.stdout)
    except ValueError:
        document = {}
    if done.returncode != 0 or "rows" not in document:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise DinoscopeError(f"runtime {runtime!r} could not be measured ({lines[-1]})")
    for note in document.get("notes", ()):
        report.note(note)
    rows: list[dict[str, Any]] = document["rows"]
    return rows
