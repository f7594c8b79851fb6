"""Selected points and classes of points as layers and as a column of the features table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dinoscope.errors import InputError
from dinoscope.widgets._classes import class_colormap, class_features
from dinoscope.widgets._layers import Source, place
from dinoscope.widgets._pointmap import PointMap
from dinoscope.widgets._points import PointSet
from dinoscope.widgets._results import METADATA, selection_kept
from dinoscope.widgets._store import ResultStore

if TYPE_CHECKING:
    from napari.layers import Labels
    from napari.viewer import Viewer

#: Classes that one layer can hold.
MOST_CLASSES = 255
COLUMN = "class"
_OWN_COLUMN = "dinoscope_class"


def give_class(points: PointSet, mask: np.ndarray, name: str) -> int:
    """Give points a class, a new one where the name is new; returns how many have it now.

    Raises
    ------
    InputError
        Nothing is selected, no name, or too many classes.
    """
    if not mask.any():
        raise InputError("no points are selected", hint="Draw around some in the plot first.")
    if not name:
        raise InputError("the class has no name", hint="Type one beside Assign.")
    if name not in points.class_names:
        if len(points.class_names) >= MOST_CLASSES:
            raise InputError(f"there are {MOST_CLASSES} classes already")
        points.class_names.append(name)
    number = points.class_names.index(name) + 1
    points.classes = points.classes.copy()
    points.classes[mask] = number
    return int(np.count_nonzero(points.classes == number))


def make_labels(viewer: Viewer, points: PointSet, mask: np.ndarray) -> list[Labels]:
    """New Labels layers, one an image: the classes, or the selection where no class was given.

    They are the user's: nothing of ours writes them again.

    Raises
    ------
    InputError
        There is neither a class nor a selection, or the images are gone.
    OutputError
        There is no room for a large stack.
    """
    from napari.layers import Labels

    classes = points.classes.any()
    values = points.classes if classes else np.asarray(mask)
    if not values.any():
        raise InputError("no points are selected and none has a class")
    values = values.astype(np.uint8)
    names = ["background", *(points.class_names if classes else ["selected"])]
    made = []
    for number, one in enumerate(points.sets):
        layer = one.source.layer
        if layer not in viewer.layers:
            continue
        map_of = PointMap.of(points, number)
        if not values[map_of.rows].any():
            continue
        placement = place(one.source, plane=one.plane)
        store = ResultStore(placement.shape, np.uint8)
        axes = one.source.image.plane_axes
        for index in one.indices:
            here = map_of.rows[map_of.on_plane(index)]
            if values[here].any():
                where = dict(zip(axes, index, strict=True))
                plane = placement.oriented(map_of.paint(index, values))
                store.write(placement.key(where), plane)
        title = "point classes" if classes else "selection"
        labels = Labels(
            store.array,
            name=f"{layer.name} · {title}",
            colormap=class_colormap(names),
            features=class_features(names),
            opacity=0.6,
            multiscale=False,
            **placement.kwargs,
        )
        labels.metadata[METADATA] = {"task": title, "source": layer.name, "classes": names[1:]}
        with selection_kept(viewer):
            viewer.add_layer(labels)
        made.append(labels)
    if not made:
        raise InputError("the images of these points were removed", hint="Plot again.")
    return made


def class_planes(
    points: PointSet, mask: np.ndarray
) -> tuple[list[str], list[tuple[Source, tuple[int, ...], np.ndarray]]]:
    """The classes (or the selection, where no class was given) as pixels of the images.

    Returns
    -------
    names : list of str
        Of the classes 1, 2, …
    planes : list of (source, index, plane)
        `plane` is (Y, X) uint8, 0 where no point of a class is; planes without any are left out.

    Raises
    ------
    InputError
        There is neither a class nor a selection.
    """
    classes = points.classes.any()
    values = (points.classes if classes else np.asarray(mask)).astype(np.uint8)
    if not values.any():
        raise InputError("no points are selected and none has a class")
    planes = []
    for number, one in enumerate(points.sets):
        map_of = PointMap.of(points, number)
        for index in one.indices:
            if values[map_of.rows[map_of.on_plane(index)]].any():
                planes.append((one.source, tuple(index), map_of.paint(index, values)))
    return list(points.class_names) if classes else ["selected"], planes


def write_column(points: PointSet) -> str:
    """Put the classes into the features table of the objects; returns the column's name.

    A column ``class`` that is not ours is left alone.

    Raises
    ------
    InputError
        The points are no objects, or none has a class.
    """
    layer: Any = points.objects
    if points.what != "objects" or layer is None:
        raise InputError(f"the points are {points.what}", expected="objects, which have a table")
    if not points.classes.any():
        raise InputError("no object has a class", hint="Select some and press Assign.")
    table = layer.features.copy()
    own = layer.metadata.setdefault(METADATA, {})
    column = COLUMN
    if COLUMN in table.columns and own.get("class_column") != COLUMN:
        column = _OWN_COLUMN
    labels = np.asarray(points.table["label"])
    text = {
        int(k): points.class_names[c - 1] for k, c in zip(labels, points.classes, strict=True) if c
    }
    if "index" not in table.columns:
        rows = len(table)
        if rows == 0:
            layer.features = {
                "index": labels,
                column: np.array([text.get(int(k), "") for k in labels], dtype=object),
            }
            own["class_column"] = column
            return column
        table["index"] = np.arange(1, rows + 1)
    table[column] = [text.get(int(k), "") for k in table["index"]]
    layer.features = table
    own["class_column"] = column
    return column
