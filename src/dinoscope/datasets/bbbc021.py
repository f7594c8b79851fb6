"""BBBC021 (Ljosa et al., Nature Methods 2012): drug effects on MCF-7 cells, three stains.

Expected in one folder: ``BBBC021_v1_image.csv``, ``BBBC021_v1_moa.csv`` and the ``Week…`` folders
with one 16-bit TIFF a channel. The class of an image is the mechanism of action (MOA) of its
compound at its concentration; images whose treatment has none are left out.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.arrays.files import read_image
from dinoscope.datasets.published import LabelledImages
from dinoscope.errors import InputError
from dinoscope.types import ImageInput

CHANNELS = ("DAPI", "Tubulin", "Actin")
IMAGE_TABLE, MOA_TABLE = "BBBC021_v1_image.csv", "BBBC021_v1_moa.csv"
CONTROL = "DMSO"
_PLATE, _WELL = "Image_Metadata_Plate_DAPI", "Image_Metadata_Well_DAPI"
_COMPOUND, _DOSE = "Image_Metadata_Compound", "Image_Metadata_Concentration"
GROUPS = ("compound", "plate", "well")


class ChannelFiles:
    """(C, Y, X) of files of one channel each, opened when they are read."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self._paths = paths
        first = read_image(paths[0])
        self.shape: tuple[int, ...] = (len(paths), *first.shape)
        self.dtype: Any = first.data.dtype

    def __getitem__(self, key: Any, /) -> Any:
        planes = [np.asarray(read_image(p).data[:]) for p in self._paths]
        for path, plane in zip(self._paths, planes, strict=True):
            if plane.shape != self.shape[1:]:
                raise InputError(
                    f"channel {str(path)!r} has shape {plane.shape}", expected=f"{self.shape[1:]}"
                )
        return np.stack(planes)[key]


def read_bbbc021(folder: str | Path, group_by: str = "compound") -> LabelledImages:
    """Images (C, Y, X) with the name of their MOA.

    Parameters
    ----------
    group_by : str
        ``compound`` (the set's own protocol: a compound is never on both sides; the control,
        which is one compound on every plate, goes by plate), ``plate`` or ``well``.

    Raises
    ------
    InputError
        A table, column or channel file is missing, or no image has an MOA.
    """
    folder = Path(folder)
    if group_by not in GROUPS:
        raise InputError(f"group_by is {group_by!r}", expected=", ".join(GROUPS))
    needed = [f"Image_{what}_{c}" for c in CHANNELS for what in ("FileName", "PathName")]
    rows = _table(folder / IMAGE_TABLE, (*needed, _PLATE, _WELL, _COMPOUND, _DOSE))
    mechanisms = {
        (r["compound"].strip(), _dose(r["concentration"], MOA_TABLE)): r["moa"].strip()
        for r in _table(folder / MOA_TABLE, ("compound", "concentration", "moa"))
    }
    images: list[Path | ImageInput] = []
    truths: list[ImageInput | str] = []
    groups: list[str] = []
    for row in rows:
        moa = mechanisms.get((row[_COMPOUND].strip(), _dose(row[_DOSE], IMAGE_TABLE)))
        if moa is None:
            continue
        paths = tuple(_channel(folder, row, channel) for channel in CHANNELS)
        images.append(ImageInput(ChannelFiles(paths), "CYX", name=paths[0].stem))
        truths.append(moa)
        groups.append(_group(row, group_by))
    if not images:
        raise InputError(
            f"no image of {IMAGE_TABLE} has a treatment that {MOA_TABLE} names",
            expected="the same compound and concentration in both",
        )
    return LabelledImages("bbbc021", "classification", tuple(images), tuple(truths), tuple(groups))


def _group(row: dict[str, str], group_by: str) -> str:
    plate = row[_PLATE]
    if group_by == "well":
        return f"{plate}_{row[_WELL]}"
    if group_by == "plate" or row[_COMPOUND].strip() == CONTROL:
        return plate
    return row[_COMPOUND].strip()


def _channel(folder: Path, row: dict[str, str], channel: str) -> Path:
    # The table names folders as Week1/Week1_22123; an older export of it had Windows' slashes.
    inside = row[f"Image_PathName_{channel}"].replace("\\", "/")
    path = folder / inside / row[f"Image_FileName_{channel}"]
    if not path.is_file():
        raise InputError(
            f"{IMAGE_TABLE} names {str(path)!r}, which does not exist",
            expected="the Week folders unpacked beside the tables",
        )
    return path


def _dose(text: str, table: str) -> float:
    try:
        return round(float(text), 6)
    except ValueError as error:
        raise InputError(
            f"{table} has the concentration {text!r}", expected="a number in µM"
        ) from error


def _table(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            rows = [{k: v or "" for k, v in row.items() if k is not None} for row in reader]
            found = tuple(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"table {str(path)!r} cannot be read ({error})",
            expected=f"{IMAGE_TABLE} and {MOA_TABLE} in the folder",
        ) from error
    missing = [c for c in columns if c not in found]
    if missing:
        raise InputError(
            f"table {path.name!r} has no column {missing[0]!r}", expected=", ".join(columns)
        )
    return rows
