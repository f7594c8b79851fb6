"""Which images train, choose and judge: parts that share no image, stack or well.

Parts are made of *references* (files and layers), before any pixel is read: the test part stays
closed until the final report. What must stay together is named by groups; of a single stack,
contiguous blocks of planes are held out, with planes between the blocks that nobody uses, because
neighbouring planes look alike.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.arrays.files import image_stem
from dinoscope.engine.dataset import TaskSource
from dinoscope.engine.loading import as_image, image_key, open_label
from dinoscope.errors import InputError
from dinoscope.types import ImageInput

#: A single stack of at least so many planes is split along its first axis of planes.
LEAST_PLANES = 8
#: Share of a stack's planes that lies unused between two blocks (one plane at least).
GAP = 0.08

#: A well of a plate, as B03, b3 or P24, not inside a longer word or number.
_WELL = re.compile(r"(?<![A-Za-z0-9])([A-Pa-p])([0-3]?[1-9]|[1-4]0|4[1-8])(?![A-Za-z0-9])")
#: What tells the planes of one stack apart at the end of a name: _z012, -t3, _ch1, slice 4.
_MARKED = re.compile(
    r"(?:[ _\-.]+(?:z|t|c|ch|w|slice|plane|frame|time|channel)[ _\-.]?\d+)+$", re.IGNORECASE
)
#: The same where planes are merely numbered: _012.
_NUMBERED = re.compile(r"[ _\-.]+\d+$")

NOTHING_HELD = "No image was held out, so nothing tells how good the model is on new images."

Reference = Path | ImageInput


@dataclass(frozen=True)
class Part:
    """Sources without what was held out, what was held out, and a note where that is nothing or
    a part of a stack."""

    training: list[TaskSource]
    held: list[TaskSource]
    note: str = ""


class PlaneBlock:
    """A lazy view of some planes of an array: those from `start` to `stop` along `axis`.

    `origin` is the name of the stack that they are planes of.
    """

    def __init__(self, data: Any, axis: int, start: int, stop: int, origin: str = "") -> None:
        self.data = data
        self.origin = origin
        self.axis = axis
        self.start = start
        length = list(data.shape)
        length[axis] = stop - start
        self.shape: tuple[int, ...] = tuple(int(n) for n in length)
        self.dtype = data.dtype

    def __getitem__(self, key: Any) -> Any:
        keys = list(key) if isinstance(key, tuple) else [key]
        if Ellipsis in keys:
            at = keys.index(Ellipsis)
            keys[at : at + 1] = [slice(None)] * (len(self.shape) - len(keys) + 1)
        keys += [slice(None)] * (len(self.shape) - len(keys))
        keys[self.axis] = self._moved(keys[self.axis])
        return self.data[tuple(keys)]

    def _moved(self, key: Any) -> Any:
        """The index of a plane of the block as one of the whole stack."""
        length = self.shape[self.axis]
        if isinstance(key, slice):
            start, stop, step = key.indices(length)
            end = stop + self.start
            return slice(start + self.start, end if end >= 0 else None, step)
        number = int(key)
        if not -length <= number < length:
            raise IndexError(f"plane {number} of {length}")
        return self.start + number % length


def group_name(stem: str, group_by: str) -> str:
    """What an image of that stem belongs to.

    Parameters
    ----------
    stem : str
        The file's name without ending.
    group_by : str
        ``image``, ``stack``, ``well`` or a regular expression; the parts that its groups match
        (without groups: all that it matches) name the group.

    Raises
    ------
    InputError
        The name has no well, does not match, or the expression cannot be read.

    Examples
    --------
    >>> group_name("plate1_B03_s2_z07", "stack"), group_name("plate1_B03_s2_z07", "well")
    ('plate1_B03_s2', 'B03')
    >>> group_name("mouse12_slide3_007", r"(mouse\\d+)")
    'mouse12'
    """
    if group_by == "image":
        return stem
    if group_by == "stack":
        kind = _MARKED if _MARKED.search(stem) else _NUMBERED
        return kind.sub("", stem) or stem
    if group_by == "well":
        wells = _WELL.findall(stem.replace("_", " "))
        if not wells:
            raise InputError(
                f"the name {stem!r} has no well in it", expected="a part such as B03 or P24"
            )
        # p1_B03_c2: plates and channels look like wells, but have one digit or small letters.
        row, column = max(wells, key=lambda well: (len(well[1]) > 1, well[0].isupper()))
        return f"{row.upper()}{int(column):02d}"
    try:
        found = re.search(group_by, stem)
    except re.error as error:
        raise InputError(
            f"group_by is {group_by!r}, which cannot be read ({error})",
            expected="image, stack, well or a regular expression",
        ) from error
    if found is None:
        raise InputError(
            f"the name {stem!r} does not match group_by {group_by!r}",
            expected="an expression that every image name matches",
        )
    return "|".join(p for p in found.groups() if p) if found.groups() else found.group()


def read_groups(table: str | Path) -> dict[str, str]:
    """Groups by image stem, from a CSV with the columns ``image`` and ``group``.

    Raises
    ------
    InputError
        It cannot be read, or a column is missing.
    """
    table = Path(table)
    try:
        with table.open(newline="", encoding="utf-8-sig") as handle:
            rows = list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"groups table {str(table)!r} cannot be read ({error})", expected="a CSV file"
        ) from error
    if not rows or not {"image", "group"} <= set(rows[0]):
        found = ", ".join(rows[0]) if rows else "no rows"
        raise InputError(
            f"groups table {str(table)!r} has {found}", expected="columns image and group"
        )
    return {image_stem(r["image"]): r["group"] for r in rows}


def grouped(
    sources: Sequence[TaskSource], group_by: str = "image", table: Mapping[str, str] | None = None
) -> list[TaskSource]:
    """`sources` with their groups filled in; groups that they have already are kept.

    Raises
    ------
    InputError
        A name does not tell its group, or `table` lacks an image.
    """
    return [
        s if s.groups and table is None else replace(s, groups=_groups_of(s, group_by, table))
        for s in sources
    ]


def _groups_of(
    source: TaskSource, group_by: str, table: Mapping[str, str] | None
) -> list[str] | None:
    if table is None and group_by == "image":
        return None  # each image is its own group: what loading does by itself
    groups = []
    for reference in source.images:
        stem = _stem(reference)
        if table is None:
            groups.append(group_name(stem, group_by))
        elif stem in table:
            groups.append(table[stem])
        else:
            raise InputError(
                f"the groups table lacks image {stem!r}", expected="a row for every image"
            )
    return groups


def _stem(reference: Reference) -> str:
    return reference.name if isinstance(reference, ImageInput) else image_stem(reference)


def hold_out(sources: Sequence[TaskSource], fraction: float, seed: int) -> Part:
    """Hold out whole groups, about `fraction` of those of each set (sources of one name).

    A single stack of `LEAST_PLANES` planes or more is split into blocks of planes. Nothing is
    read but the shape of a single stack.
    """
    if fraction <= 0:
        return Part(list(sources), [], NOTHING_HELD)
    rng = np.random.default_rng(seed)
    training: list[TaskSource] = []
    held: list[TaskSource] = []
    notes = []
    for name in dict.fromkeys(s.name for s in sources):
        members = [s for s in sources if s.name == name]
        keys = {k: g for s in members for k, g in _keys(s)}
        groups = sorted(set(keys.values()))
        if len(groups) < 2:
            one = _split_stack(members, fraction) if len(keys) == 1 else None
            if one is not None:
                training += one.training
                held += one.held
                notes.append(one.note)
            else:
                training += members
            continue
        count = max(1, min(round(fraction * len(groups)), len(groups) - 1))
        chosen = set(rng.permutation(groups)[:count].tolist())
        for source in members:
            out = {p for p, (_, group) in enumerate(_keys(source)) if group in chosen}
            training += _taken(source, [p for p in range(len(source.images)) if p not in out])
            held += _taken(source, sorted(out))
    return Part(training, held, " ".join(notes) if held else NOTHING_HELD)


def fold_parts(sources: Sequence[TaskSource], folds: int, seed: int) -> list[Part]:
    """`folds` ways to hold out groups: each group is held out once.

    Raises
    ------
    InputError
        There are fewer groups than folds.
    """
    rng = np.random.default_rng(seed)
    number: dict[tuple[str, str], int] = {}
    for name in dict.fromkeys(s.name for s in sources):
        groups = sorted({g for s in sources if s.name == name for _, g in _keys(s)})
        if len(groups) < folds:
            raise InputError(
                f"{name!r} has {len(groups)} images (or groups of images) for {folds} folds",
                expected=f"at least {folds}",
                hint="Give fewer --folds.",
            )
        for position, group in enumerate(rng.permutation(groups).tolist()):
            number[name, group] = position % folds
    parts = []
    for fold in range(folds):
        training: list[TaskSource] = []
        held: list[TaskSource] = []
        for source in sources:
            inside = [number[source.name, group] == fold for _, group in _keys(source)]
            training += _taken(source, [p for p, out in enumerate(inside) if not out])
            held += _taken(source, [p for p, out in enumerate(inside) if out])
        parts.append(Part(training, held))
    return parts


def _keys(source: TaskSource) -> list[tuple[str, str]]:
    """Key and group of each image."""
    keys = [image_key(r, p) for p, r in enumerate(source.images)]
    return list(zip(keys, source.groups or keys, strict=True))


def _taken(source: TaskSource, positions: Sequence[int]) -> list[TaskSource]:
    """The source with these images only; none where there is none."""
    if not positions:
        return []
    groups = [g for _, g in _keys(source)]
    return [
        replace(
            source,
            images=[source.images[p] for p in positions],
            truths=[source.truths[p] for p in positions],
            groups=[groups[p] for p in positions],
        )
    ]


def blocks(count: int, fraction: float) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Planes that train and planes that are held out, as (start, stop), with a gap between them.

    Examples
    --------
    >>> blocks(20, 0.2)
    ((0, 14), (16, 20))
    """
    gap = max(1, round(GAP * count))
    held = max(1, round(fraction * count))
    if count < LEAST_PLANES or count - held - gap < 1:
        return None
    return (0, count - held - gap), (count - held, count)


def _split_stack(members: Sequence[TaskSource], fraction: float) -> Part | None:
    """The last planes of a single stack held out; None where it is too short."""
    first = members[0]
    image = as_image(first.images[0], first.axes)
    if not image.plane_shape:
        return None
    letter = max(image.plane_axes, key=image.size)
    parts = blocks(image.size(letter), fraction)
    if parts is None or any(s.task == "classification" for s in members):
        return None
    sides: tuple[list[TaskSource], list[TaskSource]] = ([], [])
    for source in members:
        stack = as_image(source.images[0], source.axes)
        truth = open_label(source.truths[0], stack)
        for side, (start, stop) in zip(sides, parts, strict=True):
            cut = f"{letter} {start} to {stop - 1}"
            side.append(
                replace(
                    source,
                    images=[_block(stack, letter, start, stop, cut)],
                    truths=[_block(truth, letter, start, stop, cut)],
                    groups=[cut],
                )
            )
    (_, end), (start, stop) = parts
    note = (
        f"The only stack was split along {letter}: planes 0 to {end - 1} train, {start} to "
        f"{stop - 1} are held out, those between are not used."
    )
    return Part(*sides, note)


def _block(image: ImageInput, letter: str, start: int, stop: int, cut: str) -> ImageInput:
    if letter not in image.axes:
        raise InputError(
            f"labels {image.name!r} have axes {image.axes}, their image has {letter} too",
            expected="labels for every plane",
        )
    data = PlaneBlock(image.data, image.axes.index(letter), start, stop, image.name)
    return ImageInput(data, image.axes, image.pixel_size_um, f"{image.name} {cut}")
