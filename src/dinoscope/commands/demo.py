"""``dinoscope demo``: every task on the sample images, offline, and one overview picture."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoscope.commands.arguments import Subparsers, add_command, add_option
from dinoscope.commands.batch import Batch
from dinoscope.commands.inputs import make_folder
from dinoscope.commands.loading import DEFAULT_MODEL, load
from dinoscope.commands.report import Report
from dinoscope.config import PredictOptions

if TYPE_CHECKING:
    import numpy as np

    from dinoscope.commands.overview import Panel, Row
    from dinoscope.types import ImageInput

#: Tasks that the demo shows, as far as the model has them.
DEMO_TASKS = ("instance", "semantic", "depth", "pca")

#: What a user would tell about a sample: typical diameter of its objects, in pixels. The others'
#: diameters are estimated.
DIAMETERS_PX = {"cell": 130.0}


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
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="NAME|FILE",
        help=f"Another model (default {DEFAULT_MODEL}).",
    )
    add_option(parser, PredictOptions, "device", "--device")
    parser.set_defaults(run=run, download=False)


def run(args: argparse.Namespace, report: Report) -> int:
    """Write the samples, predict them, measure the stack's heights, draw ``overview.png``."""
    folder = make_folder(args.output)
    model = load(args.model, report, device=getattr(args, "device", "auto"))
    tasks = tuple(t for t in DEMO_TASKS if t == "pca" or t in model.card.heads)
    samples = write_samples(folder)
    options = PredictOptions(tasks=tasks, device=getattr(args, "device", "auto"))
    told = {samples[name]: px for name, px in DIAMETERS_PX.items() if name in samples}
    batch = Batch(report, folder, options, diameters_px=told)
    batch.run(batch.open_all(list(samples.values())), model, None)
    status = batch.finish()

    heights = measure_heights(samples, folder, report)
    for written in heights.values():
        report.document["outputs"].extend(str(path) for path in written.values())
    picture = folder / "overview.png"
    semantic = model.card.heads.get("semantic")
    rows = overview_rows(samples, batch.outputs, heights, semantic.classes if semantic else ())
    draw_overview(rows, picture, report.document)
    report.document["overview"] = str(picture)
    report.document["outputs"].append(str(picture))
    report.result(f"overview of it all: {picture}")
    return status


def write_samples(folder: Path) -> dict[str, Path]:
    """The sample images as files, by name, so that every step can be repeated by hand."""
    import numpy as np

    from dinoscope.arrays.files import write_image
    from dinoscope.datasets.samples import demo_images

    paths = {}
    for image in demo_images():
        paths[image.name] = folder / f"{image.name}.tif"
        pixels = np.asarray(image.data[(slice(None),) * len(image.axes)])
        write_image(paths[image.name], pixels, image.axes, image.pixel_size_um)
    return paths


def measure_heights(
    samples: Mapping[str, Path], folder: Path, report: Report
) -> dict[str, dict[str, Path]]:
    """Height maps of those samples that are z-stacks: their files, by name and kind."""
    from dinoscope.arrays.files import read_image
    from dinoscope.commands.heightmap import planned_maps, write_maps

    heights = {}
    for name, path in samples.items():
        image = read_image(path)
        if "Z" not in image.axes:
            continue
        heights[name] = planned_maps(folder, path)
        write_maps(image, heights[name], image.pixel_size_um.get("Z"), (), report)
        report.result(f"{path.name}: height map")
        for written in heights[name].values():
            report.result(f"  {written}")
    return heights


def overview_rows(
    samples: Mapping[str, Path],
    outputs: Mapping[Path, Mapping[str, Path]],
    heights: Mapping[str, Mapping[str, Path]],
    classes: Sequence[str],
) -> list[Row]:
    """A row for each sample, and one for each height map."""
    from dinoscope.arrays.files import read_image
    from dinoscope.commands.overview import Row

    rows = []
    for name, path in samples.items():
        if path not in outputs:
            continue
        image = read_image(path)
        rows.append(Row(_title(name, image), result_panels(image, outputs[path], classes)))
        if name in heights:
            rows.append(Row(f"{name}: height from focus", height_panels(image, heights[name])))
    return rows


def result_panels(
    image: ImageInput, outputs: Mapping[str, Path], classes: Sequence[str]
) -> list[Panel]:
    """The image and each of its results, of the middle plane."""
    import numpy as np

    from dinoscope.commands import pictures
    from dinoscope.commands.overview import Panel

    base = pictures.grey_or_rgb(middle_plane(image))
    panels = [Panel("image", base, _size(image))]
    if "instance" in outputs:
        ids = _result(outputs["instance"])[0]
        count = np.unique(ids[ids > 0]).size
        caption = f"{count} object{'s' * (count != 1)}"
        if image.name in DIAMETERS_PX:
            caption += f", given diameter {DIAMETERS_PX[image.name]:.0f} px"
        panels.append(Panel("instances", pictures.instances_on(base, ids), caption))
    if "semantic" in outputs:
        labels = _result(outputs["semantic"])[0]
        found = [int(c) for c in np.unique(labels) if 0 < c < 255]
        keys = [
            (pictures.PALETTE[(c - 1) % len(pictures.PALETTE)], classes[c])
            for c in found
            if c < len(classes)
        ]
        panels.append(Panel("classes", pictures.classes_on(base, labels), keys=keys))
    if "depth" in outputs:
        depth = pictures.heights(_result(outputs["depth"])[0])
        panels.append(Panel("depth", depth, "lighter = nearer the objective"))
    if "pca" in outputs:
        colours = np.moveaxis(_result(outputs["pca"]), 0, -1)
        panels.append(Panel("features", pictures.features(colours), "first three components"))
    return panels


def height_panels(image: ImageInput, maps: Mapping[str, Path]) -> list[Panel]:
    """Focused image, heights and confidence."""
    import numpy as np

    from dinoscope.commands import pictures
    from dinoscope.commands.overview import Panel

    height = _result(maps["height"])[0]
    finite = height[np.isfinite(height)]
    unit = "µm" if "Z" in image.pixel_size_um else "slices"
    span = f"{finite.min():.1f} to {finite.max():.1f} {unit}" if finite.size else "nothing measured"
    return [
        Panel("all in focus", pictures.grey_or_rgb(_result(maps["focused"])), _slices(image)),
        Panel("height", pictures.heights(height), span),
        Panel("confidence", pictures.heights(_result(maps["confidence"])[0]), "lighter = surer"),
    ]


def draw_overview(rows: Sequence[Row], path: Path, document: Mapping[str, Any]) -> None:
    """The page with its title and what it cost."""
    from dinoscope.commands.overview import draw

    spent = document.get("seconds", {})
    seconds = spent.get("load", 0.0) + spent.get("total", 0.0) + spent.get("write", 0.0)
    device = document.get("device", "cpu")
    subtitle = f"model {document.get('model')} on {device}, {seconds:.1f} s, no network"
    draw(rows, path, "dinoscope", subtitle)


def middle_plane(image: ImageInput) -> np.ndarray:
    """The plane ``(C, Y, X)`` in the middle of every plane axis."""
    from dinoscope.arrays.axes import read_plane

    return read_plane(image, tuple(n // 2 for n in image.plane_shape))


def _result(path: Path) -> np.ndarray:
    from dinoscope.arrays.files import read_image

    return middle_plane(read_image(path))


def _title(name: str, image: ImageInput) -> str:
    return f"{name} ({_slices(image)})" if image.plane_axes else name


def _slices(image: ImageInput) -> str:
    lengths = zip(image.plane_axes, image.plane_shape, strict=True)
    return ", ".join(f"{axis} = {count}" for axis, count in lengths)


def _size(image: ImageInput) -> str:
    text = f"{image.size('X')} × {image.size('Y')} px"
    if "X" in image.pixel_size_um:
        text += f", {image.pixel_size_um['X']:.3g} µm each"
    return text
