"""Turning placed bodies into exact, overlap-free label images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dinoscope.datasets.synthetic.shapes import ANGLES, Bodies
from dinoscope.datasets.synthetic.textures import Shape


@dataclass(frozen=True)
class Layout:
    """Label image with, for each pixel, how far out it lies in its body.

    `ids` (Y, X) int32, 1..n, each 4-connected; `rho` (Y, X) float32 is 0 at a body's centre, 1 at
    its outline, and 1 outside; `index` (n,) tells which body (or rod) became which id.
    """

    ids: np.ndarray
    rho: np.ndarray
    index: np.ndarray

    @property
    def count(self) -> int:
        return len(self.index)

    def lookup(self, per_object: np.ndarray, outside: float = 0.0) -> np.ndarray:
        """(Y, X) float32 with the value of each pixel's object; `per_object` has length n."""
        table = np.concatenate([[outside], per_object]).astype(np.float32)
        values: np.ndarray = table[self.ids]
        return values


def rasterize(bodies: Bodies, shape: Shape, *, smallest: float = 0.35) -> Layout:
    """Draw bodies into a label image; where they meet, a pixel belongs to the one it is deeper in.

    Bodies that keep less than `smallest` of their own area (in view) to themselves are left out.
    """
    ids = np.zeros(shape, np.int32)
    rho = np.ones(shape, np.float32)
    wanted = np.zeros(len(bodies) + 1)
    reach = bodies.radius * np.sqrt(bodies.aspect) * bodies.outline.max(1)
    reach = np.ceil(reach * (1 + 0.5 * np.abs(bodies.bend))).astype(int) + 1
    # Batches of like size: few NumPy calls and little wasted area.
    batch_of = np.ceil(2 * np.log2(np.maximum(reach, 2))).astype(int)
    for batch in np.unique(batch_of):
        members = np.flatnonzero(batch_of == batch)
        half = int(reach[members].max())
        top = np.floor(bodies.y[members]).astype(int) - half
        left = np.floor(bodies.x[members]).astype(int) - half
        fields = _body_fields(bodies.take(members), top, left, 2 * half + 1)
        for field, member, y0, x0 in zip(fields, members, top, left, strict=True):
            wanted[member + 1] = paint(ids, rho, field, int(member) + 1, int(y0), int(x0))
    return clean_layout(ids, rho, wanted, smallest=smallest)


def _body_fields(bodies: Bodies, top: np.ndarray, left: np.ndarray, side: int) -> np.ndarray:
    """(N, side, side) float32: relative distance from each body's centre, 1 on its outline."""
    steps = np.arange(side, dtype=np.float32)
    dy = steps[None, :, None] + (top - bodies.y)[:, None, None].astype(np.float32)
    dx = steps[None, None, :] + (left - bodies.x)[:, None, None].astype(np.float32)
    stretch = np.sqrt(bodies.aspect)
    along_y, along_x = np.sin(bodies.angle), np.cos(bodies.angle)
    long_axis = (1 / (bodies.radius * stretch))[:, None, None]
    short_axis = (stretch / bodies.radius)[:, None, None]
    columns = [a[:, None, None] for a in (along_y, along_x)]
    u = dy * (columns[0] * long_axis).astype(np.float32) + dx * (columns[1] * long_axis).astype(
        np.float32
    )
    v = dy * (columns[1] * short_axis).astype(np.float32) - dx * (columns[0] * short_axis).astype(
        np.float32
    )
    bend = bodies.bend[:, None, None].astype(np.float32)
    v += bend * bodies.aspect[:, None, None].astype(np.float32) * (u * u - np.float32(0.3))
    turn = np.arctan2(v, u) * np.float32(ANGLES / (2 * np.pi))
    turn += ANGLES
    low = turn.astype(np.int32)
    turn -= low
    low %= ANGLES
    # A wrapped copy of the first sample makes the interpolation one gather from a flat table.
    table = np.concatenate([bodies.outline, bodies.outline[:, :1]], axis=1)
    low += (np.arange(len(bodies), dtype=np.int32) * (ANGLES + 1))[:, None, None]
    flat = table.ravel()
    radius = flat[low]
    radius += (flat[low + 1] - radius) * turn
    return np.asarray(np.sqrt(u * u + v * v) / radius, dtype=np.float32)


def paint(ids: np.ndarray, rho: np.ndarray, field: np.ndarray, label: int, y0: int, x0: int) -> int:
    """Put one body's field into the label image where it is deeper than what is there.

    Returns the number of pixels the body would have alone.
    """
    height, width = ids.shape
    side_y, side_x = field.shape
    rows = slice(max(y0, 0), min(y0 + side_y, height))
    columns = slice(max(x0, 0), min(x0 + side_x, width))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return 0
    own = field[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0]
    there = rho[rows, columns]
    deeper = own < there
    np.copyto(there, own, where=deeper)
    ids[rows, columns][deeper] = label
    return int(np.count_nonzero(own < 1))


def clean_layout(
    ids: np.ndarray, rho: np.ndarray, wanted: np.ndarray, *, smallest: float, floor_px: int = 12
) -> Layout:
    """Keep the largest 4-connected part of each id, drop what is mostly covered, renumber.

    Parameters
    ----------
    wanted : (n + 1,) float
        Pixels that each id would have alone; ids with less than `smallest` of it are dropped.
    """
    from skimage.measure import label

    if not ids.any():
        return Layout(ids, np.ones_like(rho), np.zeros(0, np.intp))
    parts = label(ids, connectivity=1, background=0)
    sizes = np.bincount(parts.ravel())
    first = np.zeros(len(sizes), np.intp)
    first[parts.ravel()] = ids.ravel()
    owner = first.copy()
    sizes[0] = 0
    largest = np.zeros(len(wanted), np.intp)
    # Written in order of size, so that each id is left with its largest part.
    order = np.argsort(sizes, kind="stable")
    largest[owner[order]] = order
    enough = (sizes[largest] >= np.maximum(smallest * wanted, floor_px)) & (largest > 0)
    enough[0] = False
    index = np.flatnonzero(enough)
    renumber = np.zeros(len(sizes), np.int32)
    renumber[largest[index]] = np.arange(1, len(index) + 1)
    clean = renumber[parts]
    return Layout(clean, np.where(clean > 0, rho, np.float32(1)), index - 1)


def seams(ids: np.ndarray) -> np.ndarray:
    """(Y, X) bool: pixels of an object that touch another object."""
    touching = np.zeros(ids.shape, bool)
    for first, second in (
        ((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
        ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
    ):
        meet = (ids[first] != ids[second]) & (ids[first] > 0) & (ids[second] > 0)
        touching[first] |= meet
        touching[second] |= meet
    return touching
