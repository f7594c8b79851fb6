"""Open napari on what ``dinoscope demo`` wrote: ``python tools/show_demo.py demo_output``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import napari
import numpy as np

from dinoscope.arrays.files import read_image

#: How each kind of result is shown; the last part of a file's name says which it is.
LABELS = ("instance", "semantic")
IMAGES = {
    "pca": {"rgb": True},
    "depth": {"colormap": "viridis"},
    "height": {"colormap": "viridis"},
    "focused": {"colormap": "gray"},
    "confidence": {"colormap": "magma"},
}
SHOWN = ("instance",)


def pixels_of(path: Path) -> tuple[np.ndarray, str]:
    """Pixels of a file, and its axes without the samples of RGB (no dimension of a layer)."""
    image = read_image(path)
    return np.asarray(image.data[(slice(None),) * len(image.axes)]), image.axes.replace("S", "")


def show(folder: Path) -> napari.Viewer:
    """One viewer with every sample and its results, the samples side by side.

    Distances are in pixels here, since only some of the samples have a known pixel size.
    """
    viewer = napari.Viewer(title="dinoscope demo")
    results = (*LABELS, *IMAGES)
    right = 0.0
    for source in sorted(folder.glob("*.tif")):
        if source.stem.rpartition("_")[2] in results:
            continue
        pixels, axes = pixels_of(source)
        place = {"axis_labels": [a.lower() for a in axes], "translate": [0.0] * (len(axes) - 1)}
        place["translate"].append(right)
        viewer.add_image(pixels, name=source.stem, rgb=pixels.ndim > len(axes), **place)
        for path in sorted(folder.glob(f"{source.stem}_*.tif")):
            kind = path.stem.rpartition("_")[2]
            if kind in results:
                add_result(viewer, path, kind, f"{source.stem} {kind}", right)
        right += 1.1 * pixels.shape[len(axes) - 1]
    for axis in range(viewer.dims.ndim - 2):
        viewer.dims.set_current_step(axis, viewer.dims.nsteps[axis] // 2)
    viewer.reset_view()
    return viewer


def add_result(viewer: napari.Viewer, path: Path, kind: str, name: str, right: float) -> None:
    """Add one result where its sample lies."""
    values, axes = pixels_of(path)
    place: dict[str, Any] = {"name": name, "visible": kind in SHOWN}
    place["translate"] = [0.0] * (len(axes) - 1) + [right]
    place["axis_labels"] = [a.lower() for a in axes]
    if kind in LABELS:
        viewer.add_labels(values, opacity=0.6, **place)
    else:
        viewer.add_image(values, **IMAGES[kind], **place)


if __name__ == "__main__":
    show(Path(sys.argv[1]))
    napari.run()
