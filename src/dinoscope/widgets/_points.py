"""Points of the plot: what they stand for, where they lie, and the steps that make them."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dinoscope.config import ClusterOptions, ProjectionOptions
from dinoscope.errors import InputError
from dinoscope.types import Table
from dinoscope.widgets._chain import Ask
from dinoscope.widgets._tokens import Encoder, TokenRequest, TokenSet, encoded, label_image

if TYPE_CHECKING:
    from napari.layers import Layer

#: What a point stands for.
WHAT = {
    "patches": ("Patches", "One point for each patch of 14 × 14 model pixels."),
    "objects": ("Objects", "One point for each object of a Labels layer: the mean of its tokens."),
    "images": ("Planes", "One point for each plane: the mean of its tokens."),
}
METHOD_NAME = {"pca": "PC", "tsne": "t-SNE ", "umap": "UMAP "}
#: The name of the column in which a job answers with labels that were asked for.
_COLUMN = "group"


@dataclass
class Variant:
    """Points of one model: with its adapter, or without."""

    name: str
    points: str
    sets: tuple[TokenSet, ...]
    coordinates: np.ndarray
    explained: np.ndarray | None
    clusters: np.ndarray | None = None


@dataclass
class PointSet:
    """Everything that is known of the points of a plot; row k of all of it is point k.

    `table` has ``set`` (the place in `sets` of the first variant), the plane axes in lower case,
    ``y`` and ``x``, and what `what` adds (see ``worker/jobs.py``).
    """

    what: str
    options: ProjectionOptions
    table: Table
    variants: list[Variant]
    objects: Layer | None = None
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    #: Classes that the user gave to points; 0 = none.
    classes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    class_names: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.table["set"])

    @property
    def sets(self) -> tuple[TokenSet, ...]:
        return self.variants[0].sets

    def axis_names(self, variant: Variant) -> tuple[str, ...]:
        """``PC1 (34 %)``, ``t-SNE 1`` and so on."""
        names = []
        for axis in range(variant.coordinates.shape[1]):
            name = f"{METHOD_NAME[self.options.method]}{axis + 1}"
            if variant.explained is not None and axis < len(variant.explained):
                name += f" ({100 * float(variant.explained[axis]):.0f} %)"
            names.append(name)
        return tuple(names)

    def index_of(self, rows: np.ndarray | Sequence[int], axes: str) -> np.ndarray:
        """The planes of points, ``(n, len(axes))`` integers along the letters of `axes`."""
        rows = np.asarray(rows, np.intp)
        if not axes:
            return np.zeros((len(rows), 0), np.int64)
        columns = [np.asarray(self.table[a.lower()])[rows].astype(np.int64) for a in axes]
        return np.stack(columns, axis=1)

    def describe(self, point: int) -> str:
        """What a tooltip says of a point."""
        table = self.table
        lines = [str(table["image"][point])] if "image" in table else []
        if self.what == "objects":
            lines.append(f"object {int(table['label'][point])}")
        elif self.what == "patches":
            lines.append(f"patch {int(table['row'][point])}, {int(table['column'][point])}")
        axes = self.sets[int(table["set"][point])].source.image.plane_axes
        where = [f"{a.lower()} {int(table[a.lower()][point])}" for a in axes]
        if "y" in table and self.what != "images":
            where.append(f"y {float(table['y'][point]):.0f}, x {float(table['x'][point]):.0f}")
        if where:
            lines.append(" · ".join(where))
        if len(self.classes) and self.classes[point]:
            lines.append(f"class {self.class_names[int(self.classes[point]) - 1]}")
        for variant in self.variants[:1]:
            if variant.clusters is not None:
                lines.append(f"cluster {int(variant.clusters[point])}")
        return "\n".join(lines)


@dataclass(frozen=True)
class PointRequest:
    """What is plotted, and how."""

    tokens: TokenRequest
    what: str
    options: ProjectionOptions
    objects: Layer | None = None


def by_variant(sets: Sequence[TokenSet]) -> dict[str, tuple[TokenSet, ...]]:
    """Sets of the tuned and of the original model apart; the original first."""
    found: dict[str, list[TokenSet]] = {}
    for one in sorted(sets, key=lambda s: s.adapter):
        found.setdefault(one.variant, []).append(one)
    return {name: tuple(group) for name, group in found.items()}


def point_steps(
    encoder: Encoder, request: PointRequest
) -> Generator[Ask, Mapping[str, Any], PointSet]:
    """Encode, pool, lay out; for the tuned and for the original model where both are asked for.

    Raises
    ------
    DinoscopeError
        What the worker says, or labels that do not fit.
    """

    def use(sets: Sequence[TokenSet]) -> Generator[Ask, Mapping[str, Any], PointSet]:
        variants, table, notes = [], {}, list(encoder.notes)
        for name, group in by_variant(sets).items():
            payload, images = points_job(group, request.what, request.objects)
            data = yield Ask("points", payload, images)
            table = table or dict(data["table"])
            notes += data.get("notes", ())
            if int(data["n"]) < 3:
                raise InputError(
                    f"there are {int(data['n'])} {request.what} to plot",
                    expected="at least three points",
                    hint="Choose the whole stack, finer patches, or a layer with more objects.",
                )
            answer = yield Ask("project", {"points": data["points"], "options": request.options})
            notes += answer.get("notes", ())
            explained = answer.get("explained")
            variants.append(
                Variant(
                    name,
                    str(data["points"]),
                    group,
                    np.asarray(answer["coordinates"], np.float32),
                    None if explained is None else np.asarray(explained),
                )
            )
        count = len(table["set"])
        return PointSet(
            request.what,
            request.options,
            table,
            variants,
            objects=request.objects,
            notes=tuple(dict.fromkeys(notes)),
            classes=np.zeros(count, np.int32),
        )

    result: PointSet = yield from encoded(encoder, request.tokens, use)
    return result


def points_job(
    sets: Sequence[TokenSet], what: str, objects: Layer | None, classes: Layer | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Payload and images of a ``points`` job.

    Raises
    ------
    InputError
        Objects without a Labels layer, or one that does not fit its image.
    """
    payload: dict[str, Any] = {"sets": [s.id for s in sets], "what": what}
    images: dict[str, Any] = {}
    if what == "objects":
        if objects is None:
            raise InputError(
                "no Labels layer of objects is chosen",
                expected="one whose ids are the objects",
                hint="Run Predict with Instances first, or choose Patches.",
            )
        images["objects"] = label_image(objects, sets[0].source)
        payload["labels"] = {s.id: "objects" for s in sets if s.source is sets[0].source}
        payload["sets"] = list(payload["labels"])
    if classes is not None:
        images["classes"] = label_image(classes, sets[0].source)
        own = {s.id: "classes" for s in sets if s.source is sets[0].source}
        payload["classes"] = {_COLUMN: own}
    return payload, images


def label_steps(points: PointSet, layer: Layer) -> Generator[Ask, Mapping[str, Any], np.ndarray]:
    """The label of each point in a Labels layer as it is now.

    Raises
    ------
    InputError
        The layer does not fit.
    """
    payload, images = points_job(points.sets, points.what, points.objects, layer)
    data = yield Ask("points", payload, images)
    yield Ask("explore_forget", {"points": [data["points"]]})
    column = np.asarray(data["table"][_COLUMN])
    if len(column) != points.count:
        raise InputError(
            f"there are {len(column)} {points.what} now, and {points.count} in the plot",
            hint="The objects have changed: make the plot again.",
        )
    return column


def cluster_steps(
    points: PointSet, options: ClusterOptions
) -> Generator[Ask, Mapping[str, Any], str]:
    """Groups of the points of every variant."""
    counts = []
    for variant in points.variants:
        data = yield Ask("cluster", {"points": variant.points, "options": options})
        variant.clusters = np.asarray(data["clusters"], np.int32)
        counts.append(int(data["count"]))
    return "Done: " + ", ".join(f"{n} clusters" for n in counts) + "."


def feature_columns(points: PointSet) -> dict[str, np.ndarray]:
    """Columns of the objects' features table, in the order of the points (NaN or "" for none)."""
    if points.what != "objects" or points.objects is None:
        return {}
    return columns_by_label(points.objects, points.table["label"])


def columns_by_label(layer: Layer, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Columns of a Labels layer's features table, for each of `labels` (NaN or "" for none)."""
    features = layer.features
    if not len(features):
        return {}
    ids = np.asarray(features["index"]) if "index" in features else np.arange(1, len(features) + 1)
    row_of = {int(label): row for row, label in enumerate(ids)}
    rows = np.array([row_of.get(int(label), -1) for label in labels])
    found = {}
    for name in features.columns:
        if name == "index":
            continue
        values = np.asarray(features[name])
        if values.dtype.kind in "iufb":
            column = np.full(len(rows), np.nan)
            column[rows >= 0] = values[rows[rows >= 0]]
            if values.dtype.kind in "iub" and (rows >= 0).all():
                column = column.astype(values.dtype)
        else:
            column = np.full(len(rows), "", dtype=object)
            column[rows >= 0] = values[rows[rows >= 0]]
        found[str(name)] = column
    return found
