"""Flags of what is kept apart from training, and of images without labels."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dinoscope.commands.arguments import LineParser, add_option, build
from dinoscope.commands.inputs import need_folder
from dinoscope.config import SplitOptions, UnlabelledOptions
from dinoscope.errors import UsageError

if TYPE_CHECKING:
    from dinoscope.engine.dataset import TaskSource
    from dinoscope.engine.unlabelled import Unlabelled


def add_split_flags(parser: LineParser) -> None:
    """What stays together, and what only the final report reads."""
    parts = parser.add_argument_group("validation and test images")
    add_option(parts, SplitOptions, "group_by", "--group-by", metavar="HOW")
    parts.add_argument(
        "--groups",
        metavar="CSV",
        help="Table image,group of what must not stand on both sides of a split.",
    )
    add_option(parts, SplitOptions, "test_fraction", "--test-fraction", float, "F")


def add_folds(parser: LineParser) -> None:
    """Cross-validation."""
    parts = parser.add_argument_group("cross-validation")
    add_option(parts, SplitOptions, "folds", "--folds", int, "K")


def add_unlabelled_flags(parser: LineParser) -> None:
    """Images without labels, and what is learned from them."""
    few = parser.add_argument_group("images without labels")
    few.add_argument(
        "--unlabelled", metavar="DIR", help="Images without labels, of the kind to be analysed."
    )
    few.add_argument(
        "--unlabelled-method",
        dest="method",
        choices=("none", "consistency", "distill"),
        default=argparse.SUPPRESS,
        help="How they are used: consistency (an averaged teacher's confident maps) or distill "
        "(tokens of masked crops); default consistency where --unlabelled is given.",
    )
    add_option(few, UnlabelledOptions, "weight", "--unlabelled-weight", float, "W")
    add_option(few, UnlabelledOptions, "threshold", "--unlabelled-threshold", float, "P")
    add_option(few, UnlabelledOptions, "ramp_up", "--unlabelled-ramp", float, "SHARE")
    add_option(few, UnlabelledOptions, "crops", "--unlabelled-crops", int, "N")


def split_options(args: argparse.Namespace) -> SplitOptions:
    """From the flags.

    Raises
    ------
    UsageError
        A value is out of range.
    """
    return build(SplitOptions, args)


def group(sources: list[TaskSource], args: argparse.Namespace) -> list[TaskSource]:
    """The sources with the groups of ``--groups``, where it is given.

    Raises
    ------
    UsageError
        ``--groups`` and ``--group-by`` are both given.
    InputError
        The table cannot be used.
    """
    if not args.groups:
        return sources
    if hasattr(args, "group_by"):
        raise UsageError("--groups and --group-by are both given", expected="one of the two")
    from dinoscope.engine.splits import grouped, read_groups

    return grouped(sources, table=read_groups(args.groups))


def unlabelled_images(args: argparse.Namespace) -> Unlabelled | None:
    """The images of ``--unlabelled``; None without.

    Raises
    ------
    UsageError
        A method without images.
    InputError
        The folder does not exist or holds no image.
    """
    method = getattr(args, "method", "consistency" if args.unlabelled else "none")
    if not args.unlabelled:
        if method != "none":
            raise UsageError(
                f"--unlabelled-method {method} is given without images",
                expected="--unlabelled DIR",
            )
        return None
    from dinoscope.engine.dataset import images_in
    from dinoscope.engine.unlabelled import Unlabelled
    from dinoscope.errors import InputError

    folder: Path = need_folder(args.unlabelled, "--unlabelled")
    images = images_in(folder)
    if not images:
        raise InputError(f"--unlabelled {args.unlabelled!r} holds no image", expected="images")
    return Unlabelled(images, build(UnlabelledOptions, args, method=method), args.axes)
