"""``dinoscope heightmap``: heights, confidence and an all-in-focus image from a focus stack."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoscope.commands.arguments import (
    Subparsers,
    add_command,
    axes_text,
    channel_list,
    flatten,
)
from dinoscope.commands.inputs import check_not_overwriting, make_folder
from dinoscope.commands.report import Report
from dinoscope.errors import AxesError, UsageError

if TYPE_CHECKING:
    from dinoscope.types import ImageInput

#: Suffix of each result and the field of the height map it holds.
RESULTS = {"height": "height", "confidence": "confidence", "focused": "all_in_focus"}


def add_parser(subparsers: Subparsers) -> None:
    """Describe the command's flags."""
    parser = add_command(
        subparsers,
        "heightmap",
        "Measure heights in a z-stack by the sharpness of its slices (shape from focus).",
        "dinoscope heightmap stack.ome.tif --output heights --step-um 0.5",
    )
    parser.add_argument("stack", metavar="STACK", help="A z-stack; slice 0 is farthest below.")
    parser.add_argument("--output", required=True, metavar="DIR", help="Folder of the results.")
    parser.add_argument(
        "--step-um",
        type=float,
        metavar="X",
        help="Micrometres between slices (default: the file's; else heights are in slices).",
    )
    parser.add_argument(
        "--axes", type=axes_text, metavar="ZYX", help="Axes in the order of the file's shape."
    )
    parser.add_argument(
        "--channel",
        dest="channel_lists",
        action="append",
        type=channel_list,
        metavar="N[,N]",
        help="Channels whose mean is used, from 0 (default all).",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, report: Report) -> int:
    """Write the maps of every time point of the stack."""
    if args.step_um is not None and not 0 < args.step_um < float("inf"):
        raise UsageError(f"--step-um is {args.step_um!r}", expected="a positive number of µm")
    path = Path(args.stack)
    paths = planned_maps(Path(args.output), path)
    check_not_overwriting(paths.values(), [path])
    image = open_stack(path, args.axes, report)
    folder = make_folder(args.output)
    step_um = args.step_um if args.step_um is not None else image.pixel_size_um.get("Z")
    if step_um is None:
        report.note("the step between slices is not known, so heights are in slices (--step-um)")
    report.document.update(
        input=str(path),
        output=str(folder),
        unit="µm" if step_um is not None else "slices",
        step_um=step_um,
        planes=image.size("Z"),
    )
    seconds, measured = write_maps(image, paths, step_um, flatten(args.channel_lists), report)
    report.document.update(
        outputs={kind: str(written) for kind, written in paths.items()},
        measured_share=measured,
        seconds=seconds,
        device="cpu",
    )
    report.result(f"{path.name}: {image.size('Z')} slices, {measured:.0%} of the pixels measured")
    for written in paths.values():
        report.result(f"  {written}")
    return 0


def planned_maps(folder: Path, path: Path) -> dict[str, Path]:
    """The files that the stack at `path` will get in `folder`."""
    from dinoscope.arrays.files import image_stem

    return {kind: folder / f"{image_stem(path)}_{kind}.tif" for kind in RESULTS}


def open_stack(path: Path, axes: str | None, report: Report) -> ImageInput:
    """Open a z-stack; a three-dimensional file that names no axes can only be ``ZYX`` here.

    Raises
    ------
    AxesError
        The file has no Z axis.
    """
    from dinoscope.arrays.axes import require_pixels
    from dinoscope.arrays.files import read_image

    try:
        image = read_image(path, axes=axes)
    except AxesError as unclear:
        if axes is not None:
            raise
        try:
            image = read_image(path, axes="ZYX")
        except AxesError:
            raise unclear from None
        report.note("the file does not name its axes: read as ZYX")
    require_pixels(image)
    if "Z" not in image.axes:
        raise AxesError(
            f"{path.name!r} has axes {image.axes} and so no stack of slices",
            expected="a Z axis",
            hint="Name the axes with --axes, for example --axes ZYX.",
        )
    return image


def write_maps(
    image: ImageInput,
    paths: dict[str, Path],
    step_um: float | None,
    channels: tuple[int, ...],
    report: Report,
) -> tuple[dict[str, float], float]:
    """Compute and write; returns seconds by step and the share of pixels with a trusted height."""
    from contextlib import ExitStack

    import numpy as np

    from dinoscope.arrays.axes import chosen_channels
    from dinoscope.arrays.files import PlaneWriter
    from dinoscope.arrays.focus import FocusStack, height_map

    chosen_channels(image, channels or None)
    outer = "".join(axis for axis in image.plane_axes if axis != "Z")
    outer_shape = tuple(image.size(axis) for axis in outer)
    size = {axis: um for axis, um in image.pixel_size_um.items() if axis in "YX"}
    shape = (*outer_shape, image.size("Y"), image.size("X"))
    total = int(np.prod(outer_shape, dtype=int))
    seconds = {"focus": 0.0, "write": 0.0}
    measured = 0.0
    with ExitStack() as stack:
        writers: dict[str, Any] = {
            kind: stack.enter_context(PlaneWriter(target, shape, f"{outer}YX", "float32", size))
            for kind, target in paths.items()
        }
        for number, position in enumerate(np.ndindex(*outer_shape)):
            started = time.perf_counter()
            first = number * image.size("Z")

            def told(z: int, first: int = first) -> None:
                report.progress("height map: slice", first + z + 1, total * image.size("Z"))

            place = dict(zip(outer, position, strict=True))
            slices = FocusStack(image, place, channels or None, told)
            maps = height_map(slices, step_um=step_um)
            computed = time.perf_counter()
            for kind, writer in writers.items():
                writer.write(np.asarray(getattr(maps, RESULTS[kind]), dtype=np.float32))
            measured += float(np.mean(maps.mask)) / total
            seconds["focus"] += computed - started
            seconds["write"] += time.perf_counter() - computed
    return seconds, measured
