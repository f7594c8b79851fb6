"""Patches, objects or planes as points: what each of them is, where it lies, and its token."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dinoscope.arrays.axes import Index, read_plane
from dinoscope.arrays.labels import relabel_sequential
from dinoscope.arrays.objects import object_table
from dinoscope.arrays.patches import majority
from dinoscope.engine.explore.encode import TokenSet
from dinoscope.engine.explore.overlay import LabelReader, Place, all_places
from dinoscope.engine.tokens import TokenPlane, pooled_objects
from dinoscope.errors import InputError
from dinoscope.types import ImageInput, Progress, Table

#: Patches at most; more are thinned evenly.
MAX_POINTS = 1_000_000
KINDS = ("patches", "objects", "images")

#: A label layer of each set, by the set's place.
Layers = Mapping[int, LabelReader]


@dataclass(frozen=True)
class PointSet:
    """Points and where they come from; row k of `table` is point k.

    `table` has ``set`` (place of the set), ``image``, a column for each plane axis, ``y`` and ``x``
    (image coordinates), for patches ``row`` and ``column``, for objects their measurements, and the
    class columns that were asked for. `parts` says which rows come from which plane.
    """

    what: str
    sets: tuple[TokenSet, ...]
    table: Table
    parts: tuple[tuple[Place, int, int], ...]
    pooled: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.table["set"])

    @property
    def dim(self) -> int:
        """Length of a point's token."""
        return self.sets[0].dim

    def features(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Tokens ``(n, D)`` float32 of all points, or of the points `rows` in that order.

        Patches are gathered from the kept planes each time: a million of them need not be in
        memory twice.
        """
        if self.pooled is not None:
            return self.pooled if rows is None else self.pooled[rows]
        wanted = np.arange(len(self)) if rows is None else np.asarray(rows)
        out = np.empty((len(wanted), self.dim), np.float32)
        for (place, index), start, stop in self.parts:
            here = np.flatnonzero((wanted >= start) & (wanted < stop))
            if not here.size:
                continue
            found = self.sets[place]
            row, column = self.table["row"][wanted[here]], self.table["column"][wanted[here]]
            out[here] = found.tokens(index)[row * found.grid.grid[1] + column]
        return out


def patch_points(
    sets: Sequence[TokenSet],
    places: Sequence[Place] | None = None,
    *,
    classes: Mapping[str, Layers] | None = None,
    max_points: int = MAX_POINTS,
) -> Generator[Progress, None, PointSet]:
    """Every patch as a point; its class is the most frequent label of its pixels.

    Parameters
    ----------
    sets : sequence of TokenSet
        With tokens of one length.
    places : sequence of (int, index), optional
        Planes; all of them when not given.
    classes : mapping, optional
        Column name to label layers.
    max_points : int
        Beyond it, patches are left out evenly over all planes.
    """
    chosen = _chosen(sets, places)
    total = sum(sets[place].grid.count for place, _ in chosen)
    every = max(1, -(-total // max(1, max_points)))
    tables: list[Table] = []
    parts: list[tuple[Place, int, int]] = []
    done = passed = 0
    for number, (place, index) in enumerate(chosen):
        grid = sets[place].grid
        flat = np.arange(-passed % every, grid.count, every)
        passed += grid.count
        row, column = np.divmod(flat, grid.grid[1])
        centres = grid.centres(row, column)
        table = _origin(sets, place, index, len(flat))
        table |= {"row": row, "column": column, "y": centres[:, 0], "x": centres[:, 1]}
        for name, layers in (classes or {}).items():
            found = np.zeros(len(flat), np.int64)
            if place in layers:
                found = grid.majority(layers[place](index)).ravel()[flat]
            table[name] = found
        tables.append(table)
        parts.append(((place, index), done, done + len(flat)))
        done += len(flat)
        yield Progress("points", number + 1, len(chosen))
    notes = (f"1 of {every} patches is kept: there are {total}.",) if every > 1 else ()
    return PointSet("patches", tuple(sets), _joined(tables), tuple(parts), None, notes)


def object_points(
    sets: Sequence[TokenSet],
    labels: Layers,
    places: Sequence[Place] | None = None,
    *,
    intensity: Mapping[int, ImageInput] | None = None,
    classes: Mapping[str, Layers] | None = None,
) -> Generator[Progress, None, PointSet]:
    """Every object as a point: the mean of its patches' tokens, by its share of each.

    Parameters
    ----------
    sets : sequence of TokenSet
        With tokens of one length.
    labels : mapping
        Instance ids of each set.
    places : sequence of (int, index), optional
        Planes; all of them when not given.
    intensity : mapping of int to ImageInput, optional
        Where intensities are measured, by place of the set.
    classes : mapping, optional
        Column name to label layers; an object's class is the most frequent label under it.

    Raises
    ------
    InputError
        There is no object.
    """
    chosen = [p for p in _chosen(sets, places) if p[0] in labels]
    tables: list[Table] = []
    parts: list[tuple[Place, int, int]] = []
    vectors: list[np.ndarray] = []
    done = 0
    for number, (place, index) in enumerate(chosen):
        ids = labels[place](index)
        table = _objects(sets, place, index, ids, (intensity or {}).get(place))
        count = len(table["label"])
        place_of = relabel_sequential(ids)
        for name, layers in (classes or {}).items():
            found = np.zeros(count, np.int64)
            if place in layers:
                inside = place_of > 0
                under = layers[place](index)[inside]
                found = majority(place_of[inside].astype(np.int64) - 1, under, count)
            table[name] = found
        vectors.append(_pooled(sets[place], index, place_of, count))
        tables.append(table)
        parts.append(((place, index), done, done + count))
        done += count
        yield Progress("points", number + 1, len(chosen))
    if not done:
        raise InputError(
            "the labels hold no object in the chosen planes",
            expected="labels above 0",
            hint="Choose another layer, or segment the image first.",
        )
    return PointSet("objects", tuple(sets), _joined(tables), tuple(parts), np.concatenate(vectors))


def image_points(
    sets: Sequence[TokenSet],
    places: Sequence[Place] | None = None,
    *,
    classes: Mapping[str, Layers] | None = None,
) -> Generator[Progress, None, PointSet]:
    """Every plane as a point: the mean of its tokens; its class is its most frequent label above 0.

    See :func:`patch_points`.
    """
    chosen = _chosen(sets, places)
    tables: list[Table] = []
    vectors = []
    for number, (place, index) in enumerate(chosen):
        grid = sets[place].grid
        table = _origin(sets, place, index, 1)
        middle = [grid.origin[a] + (grid.shape[a] - 1) / 2 for a in (0, 1)]
        table |= {"y": np.array([middle[0]]), "x": np.array([middle[1]])}
        for name, layers in (classes or {}).items():
            under = layers[place](index) if place in layers else np.zeros(0, np.int64)
            under = under[under > 0]
            table[name] = majority(np.zeros(under.size, np.int64), under, 1)
        tables.append(table)
        vectors.append(np.asarray(sets[place].tokens(index), np.float32).mean(0))
        yield Progress("points", number + 1, len(chosen))
    parts = tuple((place, n, n + 1) for n, place in enumerate(chosen))
    return PointSet("images", tuple(sets), _joined(tables), parts, np.stack(vectors))


def _chosen(sets: Sequence[TokenSet], places: Sequence[Place] | None) -> list[Place]:
    if len({found.dim for found in sets}) != 1:
        raise InputError(
            f"tokens have lengths {sorted({s.dim for s in sets})}",
            expected="images encoded by one model with the same layers",
        )
    chosen = all_places(sets) if places is None else list(places)
    if not chosen:
        raise InputError("no plane was chosen", expected="at least one")
    return chosen


def _origin(sets: Sequence[TokenSet], place: int, index: Index, count: int) -> Table:
    """The columns that say where points come from."""
    found = sets[place]
    table: Table = {"set": np.full(count, place), "image": np.full(count, found.image)}
    for axis, number in zip(found.plane_axes, index, strict=True):
        table[axis.lower()] = np.full(count, number)
    return table


def _objects(
    sets: Sequence[TokenSet], place: int, index: Index, ids: np.ndarray, image: ImageInput | None
) -> Table:
    found = sets[place]
    y0, x0 = found.grid.origin
    pixels = None
    size: Mapping[str, float] = {}
    if image is not None:
        region = (y0, x0, y0 + found.grid.shape[0], x0 + found.grid.shape[1])
        pixels, size = read_plane(image, index, region=region), image.pixel_size_um
    measured = object_table(ids, pixels, size)
    measured["centroid_y"] = measured["centroid_y"] + y0
    measured["centroid_x"] = measured["centroid_x"] + x0
    table = _origin(sets, place, index, len(measured["label"]))
    return table | measured | {"y": measured["centroid_y"], "x": measured["centroid_x"]}


def _pooled(found: TokenSet, index: Index, ids: np.ndarray, count: int) -> np.ndarray:
    """``(count, D)`` mean tokens of objects 1..count."""
    h, w = found.grid.grid
    tokens = np.asarray(found.tokens(index)).T.reshape(-1, h, w)
    rows, columns = found.grid.pixel_patches()
    plane = TokenPlane(tokens, np.zeros(0, np.float32), (0, 0))
    if not count:
        return np.zeros((0, found.dim), np.float32)
    return pooled_objects(plane, ids, rows, columns)


def _joined(tables: Sequence[Table]) -> Table:
    """Tables one below the other; a column that some lack is NaN (0 for whole numbers) there."""
    names = list(dict.fromkeys(name for table in tables for name in table))
    joined: Table = {}
    for name in names:
        present = [t[name] for t in tables if name in t]
        kind = np.result_type(*present) if present[0].dtype.kind != "U" else present[0].dtype
        fill: object = np.nan if kind.kind == "f" else ("" if kind.kind == "U" else 0)
        parts = [t[name] if name in t else np.full(len(t["set"]), fill, dtype=kind) for t in tables]
        joined[name] = np.concatenate(parts)
    return joined
