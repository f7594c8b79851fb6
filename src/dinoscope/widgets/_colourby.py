"""What points can be coloured by, and their colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dinoscope.arrays.objects import SCORE_COLUMNS
from dinoscope.widgets._plotcolours import MOST_GROUPS, RGB, Colouring, by_column, by_group, plain
from dinoscope.widgets._points import PointSet, Variant, columns_by_label, feature_columns
from dinoscope.widgets._tokens import fitting_labels

if TYPE_CHECKING:
    from napari.layers import Layer

#: Columns that say where a point is, not what it is like.
_PLACES = ("set", "image", "row", "column", "label", "centroid_y", "centroid_x")
CLUSTERS = {"kmeans": "k-means clusters", "hdbscan": "HDBSCAN clusters"}


def choices(points: PointSet, layers: Sequence[Layer]) -> list[tuple[str, str]]:
    """What the user can choose from: a key and a text each."""
    found = [("plain", "one colour"), ("classes", "my classes")]
    found += [(f"cluster:{key}", text) for key, text in CLUSTERS.items()]
    if len(points.sets) > 1:
        found.append(("image", "image"))
    fitting = [
        layer
        for layer in fitting_labels(layers, points.sets[0].source)
        if not layer.metadata.get("dinoscope_guide")
    ]
    found += [(f"labels:{layer.unique_id}", f"labels: {layer.name}") for layer in fitting]
    found += [
        (f"under:{layer.unique_id}:{name}", f"{name}: {layer.name}")
        for layer in fitting
        for name in layer.features.columns
        if name in SCORE_COLUMNS and layer is not points.objects
    ]
    found += [(f"feature:{name}", f"feature: {name}") for name in feature_columns(points)]
    for name, values in points.table.items():
        if name not in _PLACES and len(np.unique(values[:1000])) > 1:
            found.append((f"column:{name}", name.replace("_", " ")))
    if "similarity" in points.columns:
        found.append(("similarity", "similarity to the clicks"))
    return found


def colouring_of(
    points: PointSet, variant: Variant, key: str, layer: Layer | None = None
) -> Colouring | None:
    """The colours for a key of :func:`choices`; ``None`` where the worker must be asked first.

    Clusters and labels are looked for in `variant` and in ``points.columns`` under the key.
    """
    kind, _, name = key.partition(":")
    if kind == "classes":
        names: dict[object, str] = dict(enumerate(points.class_names, 1))
        return by_group(points.classes, "class", names=names, none=0)
    if kind == "cluster":
        if variant.clusters is None:
            return None
        return by_group(variant.clusters, "cluster", none=-1)
    if kind == "labels":
        if key not in points.columns:
            return None
        title = layer.name if layer is not None else "label"
        return _by_label(points.columns[key], title, layer)
    if kind == "under":
        layer_id, _, column = name.partition(":")
        labels = points.columns.get(f"labels:{layer_id}")
        if labels is None:
            return None
        values = columns_by_label(layer, labels).get(column) if layer is not None else None
        return plain(points.count) if values is None else by_column(values, column)
    if kind == "feature":
        values = feature_columns(points).get(name)
        return plain(points.count) if values is None else by_column(values, name)
    if kind == "column":
        return by_column(np.asarray(points.table[name]), name.replace("_", " "))
    if kind == "similarity":
        return by_column(points.columns["similarity"], "similarity")
    if kind == "image":
        names = {i: one.source.layer.name for i, one in enumerate(points.sets)}
        return by_group(np.asarray(points.table["set"]), "image", names=names)
    return plain(points.count)


def _by_label(values: np.ndarray, title: str, layer: Any) -> Colouring:
    """Groups in the layer's own colours, so that plot and image agree."""
    found = np.unique(values)
    own: dict[object, RGB] = {}
    names: dict[object, str] = {}
    if layer is not None and len(found) <= MOST_GROUPS:
        for value in found:
            colour = layer.get_color(int(value)) if value else None
            if colour is not None:
                red, green, blue = (round(255 * float(c)) for c in colour[:3])
                own[int(value)] = (red, green, blue)
        features = layer.features
        if "index" in features and "class" in features:
            names = {
                int(i): str(text)
                for i, text in zip(features["index"], features["class"], strict=True)
            }
    names.pop(0, None)
    return by_group(values, title, names=names, own=own, none=0)
