"""Run a suite of benchmarks: ``python -m benchmarks.run main --data DIR --json rows.json``.

Each figure becomes a row {bar, value, must, aim, rival_value, machine, commit}. ``--only`` runs a
part of a suite. A suite needs a quiet machine: close other programs first.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import accuracy, interaction, memory
from benchmarks.rows import Row, show, write_rows

Part = Callable[[Path | None], Iterator[Row]]

MAIN: dict[str, Part] = {
    "accuracy": accuracy.main_rows,
    "time": interaction.time_rows,
    "live": interaction.live_rows,
    "cancel": interaction.cancel_rows,
    "panels": interaction.panel_rows,
    "memory": memory.memory_rows,
}
SUITES: dict[str, dict[str, Part]] = {
    "main": MAIN,
    "embedded": {},
    "annotate": {},
    "explore": {},
    "speed": {},
}


def main(argv: list[str] | None = None) -> int:
    """Run the suites that were asked for; 0 done, 1 a part failed, 2 nothing to measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("suite", choices=[*SUITES, "all"])
    parser.add_argument("--data", type=Path, help="folder with the development data sets")
    parser.add_argument("--json", type=Path, required=True, help="file for the rows")
    parser.add_argument("--only", nargs="+", metavar="PART", help="parts of the suite")
    args = parser.parse_args(argv)

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
            for row in part(args.data):
                rows.append(row)
                print(show([row]).splitlines()[1], file=sys.stderr, flush=True)
        except Exception as error:
            failed = True
            print(f"{label} failed: {type(error).__name__}: {error}", file=sys.stderr)
        write_rows(rows, args.json)
        print(f"== {label}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    print(show(rows))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
