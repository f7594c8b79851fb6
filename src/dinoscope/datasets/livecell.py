"""LIVECell (Edlund et al., Nature Methods 2021): phase-contrast cells with COCO annotations.

Expected below one folder, at any depth: ``livecell_coco_train.json`` (``val``, ``test``) and the
TIFF images that it names. Segmentations may be polygons, run lengths or compressed run lengths.

Where annotations overlap, a pixel belongs to the smallest of them, and among equals to the one
that is listed first. Crowd regions (``iscrowd``) are unknown, not background.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from skimage.draw import polygon

from dinoscope.datasets.published import LabelledImages, file_index
from dinoscope.datasets.rle import decode_runs, parse_runs
from dinoscope.errors import InputError
from dinoscope.types import ImageInput

PARTS = ("train", "val", "test")


class CocoLabels:
    """Instance ids (Y, X) int32 of one image, painted when they are read; -1 is unknown."""

    dtype = np.dtype(np.int32)

    def __init__(self, shape: tuple[int, int], annotations: Sequence[Mapping[str, Any]]) -> None:
        self.shape = shape
        self._annotations = annotations

    def __getitem__(self, key: Any, /) -> Any:
        return paint(self._annotations, *self.shape)[key]


def read_livecell(folder: str | Path, part: str = "train") -> LabelledImages:
    """Images of one part with their instances; a group is the well that a frame shows.

    Raises
    ------
    InputError
        The JSON or an image is missing, or an entry lacks what COCO prescribes.
    """
    folder = Path(folder)
    if part not in PARTS:
        raise InputError(f"LIVECell has no part {part!r}", expected=", ".join(PARTS))
    path = annotation_file(folder, part)
    if path is None:
        raise InputError(
            f"{str(folder)!r} holds no livecell_coco_{part}.json",
            expected="LIVECell's layout: annotations/LIVECell/livecell_coco_train.json and images/",
        )
    images, annotations = _tables(path)
    by_image: dict[Any, list[Mapping[str, Any]]] = {}
    for entry in annotations:
        by_image.setdefault(entry["image_id"], []).append(entry)
    files = file_index(folder, (".tif", ".tiff", ".png"))
    found: list[Path | ImageInput] = []
    truths: list[ImageInput | str] = []
    for image in images:
        name = Path(str(image["file_name"])).name
        if name not in files:
            raise InputError(
                f"{path.name} names {name!r}, which is nowhere below {str(folder)!r}",
                expected="the images beside the annotations, as images/.../" + name,
            )
        shape = (int(image["height"]), int(image["width"]))
        labels = CocoLabels(shape, by_image.get(image["id"], ()))
        found.append(files[name])
        truths.append(ImageInput(labels, "YX", name=Path(name).stem))
    groups = tuple(well(p.stem) for p in found if isinstance(p, Path))
    return LabelledImages("livecell", "instance", tuple(found), tuple(truths), groups)


def annotation_file(folder: Path, part: str) -> Path | None:
    """The JSON of a part, wherever it lies below `folder`."""
    return next(iter(sorted(folder.rglob(f"livecell_coco_{part}.json"))), None)


def well(stem: str) -> str:
    """``A172_Phase_C7`` of ``A172_Phase_C7_1_00d00h00m_1``: line and well, without field, time and
    crop."""
    return "_".join(stem.split("_")[:3])


def _tables(path: Path) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} cannot be read ({error})", expected="COCO JSON") from error
    tables: list[list[Mapping[str, Any]]] = []
    for name, fields in (
        ("images", ("id", "file_name", "height", "width")),
        ("annotations", ("image_id", "segmentation")),
    ):
        entries = document.get(name) if isinstance(document, dict) else None
        if isinstance(entries, dict):  # LIVECell's own files key annotations by their id
            entries = list(entries.values())
        if not isinstance(entries, list):
            raise InputError(f"{path.name} has no {name!r}", expected="a list of COCO entries")
        for entry in entries:
            missing = [f for f in fields if not isinstance(entry, dict) or f not in entry]
            if missing:
                raise InputError(
                    f"an entry of {name!r} in {path.name} has no {missing[0]!r}",
                    expected=", ".join(fields),
                )
        tables.append(entries)
    if not tables[0]:
        raise InputError(f"{path.name} lists no image", expected="at least one")
    return tables[0], tables[1]


def paint(annotations: Sequence[Mapping[str, Any]], height: int, width: int) -> np.ndarray:
    """Ids 1… in the order of `annotations`, (Y, X) int32; see the module for overlaps."""
    masks = [
        (decode(a["segmentation"], height, width), bool(a.get("iscrowd"))) for a in annotations
    ]
    ids = np.zeros((height, width), np.int32)
    for mask, crowd in masks:
        if crowd:
            ids[mask] = -1
    # The smallest is painted last; of equals, the first one listed.
    for number in sorted(range(len(masks)), key=lambda i: (-int(masks[i][0].sum()), -i)):
        mask, crowd = masks[number]
        if not crowd:
            ids[mask] = number + 1
    return ids


def decode(segmentation: Any, height: int, width: int) -> np.ndarray:
    """The mask (height, width) bool of a COCO segmentation of any of its three forms.

    Raises
    ------
    InputError
        It is none of them, or does not fit the image.
    """
    if isinstance(segmentation, Mapping) and {"counts", "size"} <= set(segmentation):
        if list(segmentation["size"]) != [height, width]:
            raise InputError(
                f"run lengths are for {segmentation['size']}", expected=f"[{height}, {width}]"
            )
        counts = segmentation["counts"]
        return decode_runs(parse_runs(counts) if isinstance(counts, str) else counts, height, width)
    if not isinstance(segmentation, list):
        raise InputError(
            f"a segmentation is {type(segmentation).__name__}",
            expected="polygons, or size and counts",
        )
    mask = np.zeros((height, width), bool)
    for ring in segmentation:
        points = np.asarray(ring, np.float64)
        if points.ndim != 1 or len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
            raise InputError(
                f"a polygon has {points.size} coordinates", expected="x, y of three points or more"
            )
        # COCO counts from the corner of the first pixel, skimage from its centre.
        mask[polygon(points[1::2] - 0.5, points[::2] - 0.5, (height, width))] = True
    return mask
