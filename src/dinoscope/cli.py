"""The command line: ``dinoscope demo | predict | train | search | evaluate | explore | …``."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence

from dinoscope import __version__
from dinoscope.commands import (
    benchmark,
    demo,
    evaluate,
    explore,
    export,
    heightmap,
    improve,
    models,
    predict,
    search,
    train,
)
from dinoscope.commands.arguments import LineParser
from dinoscope.commands.report import Report
from dinoscope.errors import UsageError

_DESCRIPTION = """\
Segment, classify and measure microscopy images with a LoRA-tuned DINOv2.

Exit status: 0 done; 1 an error, or some of the images failed (the others are done);
2 the request makes no sense (flags, axes, a task that the model has no head for)."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; importing nothing heavy, so that ``--help`` is quick."""
    parser = LineParser(
        prog="dinoscope",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"dinoscope {__version__}")
    parser.add_argument("--debug", action="store_true", help="Show tracebacks of errors.")
    subparsers = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=LineParser
    )
    commands = (
        demo,
        models,
        predict,
        train,
        search,
        evaluate,
        explore,
        heightmap,
        improve,
        export,
        benchmark,
    )
    for command in commands:
        command.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : Sequence[str], optional
        Arguments after the program's name; the process's own when not given.

    Returns
    -------
    int
        0 success; 1 an error, or some images failed; 2 the request makes no sense; 130 Ctrl-C.
    """
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    report = Report(args.command, as_json=args.json, debug=args.debug)
    status = 1
    try:
        # Whatever a library prints belongs on stderr: stdout holds results only.
        with contextlib.redirect_stdout(sys.stderr):
            status = args.run(args, report)
    except UsageError as error:
        report.error(error)
        status = 2
    except KeyboardInterrupt as stop:
        report.error(stop)
        status = 130
    except Exception as error:
        report.error(error)
    report.finish(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
