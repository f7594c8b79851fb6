"""``dinoscope predict``: segment, measure, classify image files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dinoscope.commands.arguments import (
    LineParser,
    Subparsers,
    add_command,
    add_option,
    axes_text,
    build,
    channel_list,
    comma_list,
    flatten,
)
from dinoscope.commands.batch import Batch
from dinoscope.commands.inputs import check_not_overwriting, check_stems, expand, make_folder
from dinoscope.commands.loading import DEFAULT_MODEL, load, require_heads
from dinoscope.commands.report import Report
from dinoscope.commands.results import planned_outputs
from dinoscope.config import TASKS, InstanceOptions, PredictOptions
from dinoscope.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from dinoscope.arrays.calibrate import Calibration


def add_parser(subparsers: Subparsers) -> None:
    """Describe the command's flags."""
    parser = add_command(
        subparsers,
        "predict",
        "Segment, measure and classify images with a model.",
        "dinoscope predict cells.tif --task instance,depth --output results",
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="Image files, or folders of them."
    )
    parser.add_argument(
        "--task",
        dest="task_lists",
        action="append",
        type=comma_list,
        required=True,
        metavar="TASK[,TASK]",
        help="What to predict: " + ", ".join(TASKS) + ".",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="Folder of the results.")
    add_model_flags(parser)
    add_option(parser, PredictOptions, "runtime", "--runtime")
    add_image_flags(parser)
    add_option(parser, PredictOptions, "diameter_px", "--diameter", float, "PX")
    add_option(parser, PredictOptions, "denoise", "--denoise")
    add_option(parser, PredictOptions, "local_contrast", "--local-contrast")
    parser.add_argument(
        "--dark", metavar="FILE", help="Image taken without light, subtracted first."
    )
    parser.add_argument("--flat", metavar="FILE", help="Image of an empty field, divided out.")
    objects = parser.add_argument_group("objects (task instance)")
    add_option(objects, InstanceOptions, "threshold", "--threshold", float, "P")
    add_option(objects, InstanceOptions, "min_size_px", "--min-size", int, "PX")
    add_option(objects, InstanceOptions, "min_size_share", "--min-size-share", float, "S")
    add_option(objects, InstanceOptions, "remove_border", "--remove-border")
    add_option(objects, InstanceOptions, "fill_holes", "--no-fill-holes")
    parser.set_defaults(run=run)


def add_model_flags(parser: LineParser) -> None:
    """Flags that choose the model and where it computes."""
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="NAME|FILE",
        help=f"A name from 'dinoscope models', or a file (default {DEFAULT_MODEL}).",
    )
    parser.add_argument(
        "--download",
        action="store_true",
        help="Download backbone weights that are not on this disk.",
    )
    add_option(parser, PredictOptions, "device", "--device")
    add_option(parser, PredictOptions, "threads", "--threads", int, "N")


def add_image_flags(parser: LineParser) -> None:
    """Flags that say how image files are read."""
    parser.add_argument(
        "--axes",
        type=axes_text,
        metavar="CYX",
        help="Axes in the order of the file's shape: T time, Z depth, C channel, Y, X, S RGB.",
    )
    parser.add_argument(
        "--channel",
        dest="channel_lists",
        action="append",
        type=channel_list,
        metavar="N[,N]",
        help="Channels that are used, from 0; may be repeated (default all).",
    )
    add_option(parser, PredictOptions, "pixel_size_um", "--pixel-size-um", float, "X")


def run(args: argparse.Namespace, report: Report) -> int:
    """Predict every image; a bad one is reported and the others go on."""
    paths = expand(args.images)
    check_stems(paths)
    options = options_from(args)
    planned = [p for path in paths for p in planned_outputs(Path(), path, options.tasks).values()]
    check_not_overwriting([Path(args.output) / p for p in planned], paths)
    folder = make_folder(args.output)
    calibration = read_calibration(args.dark, args.flat)

    require_heads(args.model, options.tasks)
    batch = Batch(report, folder, options, axes=args.axes)
    good = batch.open_all(paths)
    if good:
        model = load(args.model, report, device=options.device, download=args.download)
        batch.run(good, model, calibration)
    return batch.finish()


def options_from(args: argparse.Namespace) -> PredictOptions:
    """The options of a run from its flags.

    Raises
    ------
    UsageError
        An unknown task, or a value out of range.
    """
    return build(
        PredictOptions,
        args,
        tasks=flatten(args.task_lists),
        channels=flatten(args.channel_lists) or None,
        instance=build(InstanceOptions, args),
    )


def read_calibration(dark: str | None, flat: str | None) -> Calibration | None:
    """Dark and flat image, ``(Y, X)`` or ``(C, Y, X)``."""
    if dark is None and flat is None:
        return None
    from dinoscope.arrays.axes import plane_count, read_plane
    from dinoscope.arrays.calibrate import Calibration
    from dinoscope.arrays.files import read_image

    images: list[np.ndarray | None] = []
    for flag, path in (("--dark", dark), ("--flat", flat)):
        if path is None:
            images.append(None)
            continue
        image = read_image(Path(path))
        if plane_count(image) != 1:
            raise InputError(
                f"{flag} {path!r} holds {plane_count(image)} planes", expected="one plane"
            )
        images.append(read_plane(image, (0,) * len(image.plane_axes)))
    return Calibration(dark=images[0], flat=images[1])
