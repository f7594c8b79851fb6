"""``dinoscope demo``: every task on the bundled sample images, offline."""

from __future__ import annotations

import argparse

from dinoscope.commands.arguments import Subparsers, add_command
from dinoscope.commands.report import Report


def add_parser(subparsers: Subparsers) -> None:
    """Describe the command's flags."""
    parser = add_command(
        subparsers,
        "demo",
        "Run every task on bundled sample images, offline, and draw an overview.",
        "dinoscope demo --output demo_output",
    )
    parser.add_argument(
        "--output",
        default="demo_output",
        metavar="DIR",
        help="Folder of the results (default demo_output).",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, report: Report) -> int:
    return 0
