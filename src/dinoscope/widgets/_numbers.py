"""How well classes lie apart: asked of the worker, shown as a table, before and after LoRA."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtWidgets import QCheckBox, QVBoxLayout, QWidget

from dinoscope.errors import InputError
from dinoscope.types import Table
from dinoscope.widgets._chain import Ask
from dinoscope.widgets._colourby import choices
from dinoscope.widgets._featureforms import Choice
from dinoscope.widgets._points import PointSet, feature_columns, label_steps
from dinoscope.widgets._style import add_row, form, hint_label, set_tone
from dinoscope.widgets._tables import TableView

if TYPE_CHECKING:
    from napari.layers import Layer


def separability_steps(
    points: PointSet, key: str, layer: Layer | None, *, groups: bool = False
) -> Generator[Ask, Mapping[str, Any], list[dict[str, Any]]]:
    """Accuracy of a linear probe and silhouette for the classes of a key of ``_colourby.choices``.

    Raises
    ------
    InputError
        There are no classes.
    """
    kind, _, name = key.partition(":")
    if kind == "labels":
        if layer is None:
            raise InputError("the Labels layer is gone", hint="Choose another one.")
        values = yield from label_steps(points, layer)
    elif kind == "classes":
        names = np.array(["", *points.class_names])
        values = names[points.classes]
    elif kind == "feature":
        values = np.asarray(feature_columns(points)[name]).astype(str)
    else:
        raise InputError(f"classes are {key!r}", expected="labels, my classes or a features column")
    if len(set(np.unique(values)) - {0, "", "0"}) < 2:
        raise InputError(
            "the points have fewer than two classes",
            expected="points of two classes",
            hint="Select some in the plot and press Assign, twice, or choose a Labels layer.",
        )
    payload: dict[str, Any] = {
        "points": [variant.points for variant in points.variants],
        "classes": values,
        "groups": groups,
    }
    data = yield Ask("separability", payload)
    results = [dict(result) for result in data["results"]]
    for result, variant in zip(results, points.variants, strict=True):
        result["variant"] = variant.name or "model"
        result["folds"] = data.get("folds")
    return results


class NumbersForm(QWidget):
    """What the classes are, and the result."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("bare")
        self.classes = Choice({"classes": "my classes"}, "What the classes are.")
        self.by_plane = QCheckBox("Keep planes whole")
        self.by_plane.setToolTip(
            "Train and test on different planes: neighbours of one plane look alike."
        )
        self.view = NumbersView()
        grid = form()
        add_row(grid, "Classes", self.classes)
        grid.addWidget(self.by_plane, grid.rowCount(), 1)
        grid.addWidget(self.view, grid.rowCount(), 0, 1, 2)
        self.setLayout(grid)

    def offer(self, points: PointSet | None, layers: Sequence[Layer]) -> None:
        """What can be classes now."""
        entries = [("classes", "my classes")]
        if points is not None:
            entries = [
                (key, text)
                for key, text in choices(points, layers)
                if key.partition(":")[0] in ("labels", "feature", "classes")
            ]
        self.classes.offer(dict(entries))


class NumbersView(QWidget):
    """The result: one line that says what it means, and a row for each class."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("bare")
        self.line = hint_label("Nothing measured yet.")
        self.table = TableView()
        self.table.hide()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.line)
        layout.addWidget(self.table)
        self.results: list[dict[str, Any]] = []

    def clear(self, text: str = "Nothing measured yet.") -> None:
        self.results = []
        self.table.hide()
        set_tone(self.line, text)

    def show_results(self, results: list[dict[str, Any]]) -> None:
        """Show one result, or two beside each other."""
        self.results = results
        set_tone(self.line, verdict(results))
        self.table.show_table(joined(results))
        self.table.show()


def joined(results: list[dict[str, Any]]) -> Table:
    """One table: a row for each class and one for all, the models side by side."""
    first = results[0]["table"]
    table: Table = {
        "class": np.array([*map(str, first["class"]), "all"], dtype=object),
        "n": np.array([*first["n"], int(np.sum(first["n"]))]),
    }
    for name, shown, scale in (("accuracy", "right %", 100), ("silhouette", "silhouette", 1)):
        for result in results:
            # Two short lines: four columns find room beside each other.
            model = str(result["variant"]).removeprefix("LoRA-")
            title = f"{shown}\n{model}" if len(results) > 1 else shown
            values = np.array([*np.asarray(result["table"][name], float), float(result[name])])
            table[title] = (scale * values).round(2 if scale == 1 else 1)
    return table


def verdict(results: list[dict[str, Any]]) -> str:
    """One line: what a straight boundary gets right, and whether tuning helped.

    Examples
    --------
    >>> verdict([{"accuracy": 0.9, "accuracy_std": 0.02, "silhouette": 0.31}])
    'A straight boundary gets 90 ± 2 % right; silhouette 0.31.'
    """
    last = results[-1]
    text = (
        f"A straight boundary gets {100 * last['accuracy']:.0f} ± "
        f"{100 * last['accuracy_std']:.0f} % right; silhouette {last['silhouette']:.2f}."
    )
    if len(results) > 1:
        before = results[0]
        gain = 100 * (last["accuracy"] - before["accuracy"])
        spread = 100 * float(np.hypot(last["accuracy_std"], before["accuracy_std"]))
        what = "helps" if gain > spread else "hurts" if gain < -spread else "changes little"
        text = (
            f"Tuning {what} here: {100 * before['accuracy']:.0f} → {100 * last['accuracy']:.0f} % "
            f"right (± {spread:.0f}); silhouette {before['silhouette']:.2f} → "
            f"{last['silhouette']:.2f}."
        )
    return text
