"""Run a suite of benchmarks: ``python -m benchmarks.run main --data DIR --json rows.json``.

Each figure becomes a row {bar, value, must, aim, rival_value, machine, commit}. ``--only`` runs a
part of a suite. A suite needs a quiet machine: close other programs first.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import (
    accuracy,
    agreement,
    annotate,
    annotate_improve,
    annotate_window,
    brushing,
    embedded,
    evaluate,
    explore,
    improve_limits,
    interaction,
    memory,
    speed,
)
from benchmarks.rows import Row, show, write_rows
from benchmarks.settings import Settings

Part = Callable[[Settings], Iterator[Row]]


def with_data(rows: Callable[[Path | None], Iterator[Row]]) -> Part:
    """A part that needs to know where the data is, and nothing else."""
    return lambda settings: rows(settings.data)


def _onnx_rows(settings: Settings) -> Iterator[Row]:
    """Imported where it is run: onnx and onnxruntime need not be there for the other suites."""
    from benchmarks.onnx_approaches import onnx_rows

    yield from onnx_rows(settings)


MAIN: dict[str, Part] = {
    "accuracy": with_data(accuracy.main_rows),
    "time": with_data(interaction.time_rows),
    "live": with_data(interaction.live_rows),
    "cancel": with_data(interaction.cancel_rows),
    "panels": with_data(interaction.panel_rows),
    "memory": with_data(memory.memory_rows),
}
SUITES: dict[str, dict[str, Part]] = {
    "main": MAIN,
    "embedded": embedded.PARTS,
    "annotate": {
        **annotate.PARTS,
        "improve": annotate_improve.improve_rows,
        "limits": improve_limits.limit_rows,
        "window": annotate_window.window_rows,
    },
    "explore": {
        **{name: with_data(rows) for name, rows in explore.PARTS.items()},
        "evaluate": with_data(evaluate.evaluate_rows),
        "agreement": with_data(agreement.agreement_rows),
        "brushing": with_data(brushing.brushing_rows),
    },
    "speed": {**speed.PARTS, "onnx": _onnx_rows},
}


def main(argv: list[str] | None = None) -> int:
    """Run the suites that were asked for; 0 done, 1 a part failed, 2 nothing to measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("suite", choices=[*SUITES, "all"])
    parser.add_argument("--data", type=Path, help="folder with the development data sets")
    parser.add_argument("--json", type=Path, required=True, help="file for the rows")
    parser.add_argument("--only", nargs="+", metavar="PART", help="parts of the suite")
    add_settings(parser)
    args = parser.parse_args(argv)
    settings = settings_of(args)

    names = [name for name in SUITES if SUITES[name]] if args.suite == "all" else [args.suite]
    parts = {f"{name}: {part}": f for name in names for part, f in SUITES[name].items()}
    if args.only:
        known = {label.partition(": ")[2] for label in parts}
        unknown = sorted(set(args.only) - known)
        if unknown:
            parser.error(f"no part {unknown}; there are {sorted(known)}")
        parts = {k: f for k, f in parts.items() if k.partition(": ")[2] in args.only}
    if not parts:
        print(f"suite {args.suite!r} has no bars yet: nothing was measured", file=sys.stderr)
        return 2

    rows: list[Row] = []
    failed = False
    for label, part in parts.items():
        print(f"== {label}", file=sys.stderr, flush=True)
        started = time.perf_counter()
        try:
            for row in part(settings):
                rows.append(row)
                print(show([row]).splitlines()[1], file=sys.stderr, flush=True)
        except Exception as error:
            failed = True
            print(f"{label} failed: {type(error).__name__}: {error}", file=sys.stderr)
        write_rows(rows, args.json)
        print(f"== {label}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    print(show(rows))
    return 1 if failed else 0


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Flags of `Settings`; they matter to the parts of the suite ``embedded``."""
    group = parser.add_argument_group("suite embedded")
    group.add_argument("--model", default="embedded", help="the model that is measured")
    group.add_argument("--twin", help="a model that never saw what a part holds out")
    group.add_argument("--redcells", default="embedded-redcells", help="red-cell adapter")
    group.add_argument("--cellcycle", default="embedded-cellcycle", help="cell-cycle adapter")
    group.add_argument("--minutes", type=float, help="of each training run")
    group.add_argument("--draws", type=int, default=3, help="draws of few images")
    group.add_argument("--images", type=int, help="at most so many validation images of each set")
    group.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = all")
    group.add_argument("--train-flags", default="", help="more flags for each 'dinoscope train'")
    group.add_argument("--rivals", type=Path, help="folder with results of benchmarks.peers")
    group.add_argument("--work", type=Path, help="kept results (default: beside the JSON file)")


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings that the flags ask for."""
    return Settings(
        data=args.data,
        work=args.work or args.json.with_suffix(""),
        model=args.model,
        twin=args.twin,
        redcells=args.redcells,
        cellcycle=args.cellcycle,
        minutes=args.minutes,
        draws=args.draws,
        images=args.images,
        threads=args.threads,
        train_flags=tuple(shlex.split(args.train_flags)),
        rivals=args.rivals,
    )


if __name__ == "__main__":
    raise SystemExit(main())
