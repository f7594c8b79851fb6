"""Sample images: two real micrographs from scikit-image's wheel and three made by this project.

*File ▸ Open Sample* calls :func:`ihc`, :func:`cell`, :func:`zstack` and :func:`timelapse`; the demo
uses :func:`demo_images`. Nothing here needs the network, napari or torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.errors import InputError
from dinoscope.types import ImageInput

#: What napari takes from a reader: data, keyword arguments of the layer, its kind.
LayerData = tuple[np.ndarray, dict[str, Any], str]

FOLDER = Path(__file__).resolve().parent.parent / "sample_data"

#: Files in `FOLDER`, made by ``sample_data/make_sample_data.py``.
SAMPLE_FILES = (
    "zstack.tif",
    "zstack_masks.tif",
    "zstack_height.tif",
    "timelapse.tif",
    "timelapse_masks.tif",
)

#: Seconds between the frames of the time series.
FRAME_INTERVAL_S = 300.0


def sample_path(name: str) -> Path:
    """The file of a made sample.

    Raises
    ------
    InputError
        There is no such sample.
    """
    path = FOLDER / name
    if name not in SAMPLE_FILES or not path.is_file():
        raise InputError(
            f"there is no sample {name!r}",
            expected="one of " + ", ".join(SAMPLE_FILES),
            hint="Install the package again if its sample_data folder is incomplete.",
        )
    return path


def demo_images() -> list[ImageInput]:
    """The images of ``dinoscope demo``: stained tissue, one cell, and a stack with known heights.

    Returns
    -------
    list of ImageInput
        Named ``ihc`` (YXS), ``cell`` (YX) and ``zstack`` (ZYX, with pixel sizes).
    """
    from dinoscope.arrays.files import read_image

    return [
        ImageInput(_bundled("ihc"), "YXS", name="ihc"),
        ImageInput(_bundled("cell"), "YX", name="cell"),
        read_image(sample_path("zstack.tif")),
    ]


def ihc() -> list[LayerData]:
    """Colonic tissue, immunohistochemically stained: (512, 512, 3) uint8."""
    metadata = {"source": "scikit-image: skimage.data.immunohistochemistry, no known restrictions"}
    layer = {"name": "ihc", "rgb": True, "axis_labels": ("y", "x"), "metadata": metadata}
    return [(_bundled("ihc"), layer, "image")]


def cell() -> list[LayerData]:
    """One cell in quantitative phase contrast: (660, 550) uint8."""
    metadata = {"source": "scikit-image: skimage.data.cell, CC0"}
    layer = {"name": "cell", "axis_labels": ("y", "x"), "metadata": metadata}
    return [(_bundled("cell"), layer, "image")]


def zstack() -> list[LayerData]:
    """A made focus series of cells on a rough surface, with its masks and its height map (µm)."""
    stack = _read("zstack.tif")
    masks = _read("zstack_masks.tif")
    height = _read("zstack_height.tif")
    return [
        (np.asarray(stack.data[:]), {"name": "zstack", **_placed(stack)}, "image"),
        (
            np.asarray(height.data[:]),
            {
                "name": "zstack height [µm]",
                "colormap": "viridis",
                "visible": False,
                **_placed(height),
            },
            "image",
        ),
        (
            np.asarray(masks.data[:]).astype(np.int32),
            {"name": "zstack masks", **_placed(masks)},
            "labels",
        ),
    ]


def timelapse() -> list[LayerData]:
    """A made time series in two channels (nuclei, cell bodies) with masks; ids last over time."""
    series = _read("timelapse.tif")
    masks = _read("timelapse_masks.tif")
    frames = np.asarray(series.data[:])
    placed = _placed(masks)
    channels: list[LayerData] = [
        (
            frames[:, channel],
            {"name": f"timelapse {what}", "colormap": colour, "blending": "additive", **placed},
            "image",
        )
        for channel, (what, colour) in enumerate((("cells", "green"), ("nuclei", "magenta")))
    ]
    labels = np.asarray(masks.data[:]).astype(np.int32)
    return [*channels, (labels, {"name": "timelapse masks", "opacity": 0.4, **placed}, "labels")]


def _read(name: str) -> ImageInput:
    from dinoscope.arrays.files import read_image

    return read_image(sample_path(name))


def _placed(image: ImageInput) -> dict[str, Any]:
    """Scale, units and axis labels of a layer; time is in seconds, the rest in µm."""
    axes = [a for a in image.axes if a != "C"]
    return {
        "scale": tuple(
            FRAME_INTERVAL_S if a == "T" else float(image.pixel_size_um.get(a, 1.0)) for a in axes
        ),
        "units": tuple("s" if a == "T" else "um" for a in axes),
        "axis_labels": tuple(a.lower() for a in axes),
        "metadata": {"source": "made by dinoscope, sample_data/make_sample_data.py"},
    }


def _bundled(name: str) -> np.ndarray:
    """A picture that lies in scikit-image's wheel; never fetched."""
    from importlib.resources import as_file, files

    import imageio.v3 as imageio

    # skimage.data would try to download a file that is not there; this must stay offline.
    entry = files("skimage") / "data" / f"{name}.png"
    if not entry.is_file():
        raise InputError(
            f"scikit-image was installed without its picture {name}.png",
            expected="scikit-image 0.24 or newer from PyPI or conda-forge",
            hint="Install scikit-image again.",
        )
    with as_file(entry) as path:
        return np.asarray(imageio.imread(path))
