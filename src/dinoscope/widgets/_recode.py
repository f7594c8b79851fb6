"""Classes that were moved or removed: strokes and previews get their new codes, and may go back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dinoscope.widgets._classlist import AnnotationClass, no_change
from dinoscope.widgets._strokebook import PlaneKey

if TYPE_CHECKING:
    from dinoscope.widgets._annotator import Annotator


@dataclass
class RemovedClass:
    """What it takes to undo the removal of a class."""

    one: AnnotationClass
    code: int
    strokes: dict[PlaneKey, np.ndarray] = field(default_factory=dict)


class Recoder:
    """Carries changes of the class list to the layers, the strokes and the worker.

    Parameters
    ----------
    annotator : Annotator
        Whose images.
    """

    def __init__(self, annotator: Annotator) -> None:
        self._annotator = annotator
        self._before = list(annotator.classes)
        self.removed: RemovedClass | None = None

    def adopt(self) -> None:
        """The classes were replaced as a whole (a project was opened)."""
        self._before = list(self._annotator.classes)
        self.removed = None

    def change(self, table: np.ndarray) -> None:
        """The list was changed; `table` are the new codes."""
        annotator = self._annotator
        before, self._before = self._before, list(annotator.classes)
        if np.array_equal(table, no_change()):
            annotator.keeper.set_classes(annotator.classes.as_values())
        else:
            annotator.flush()
            self.removed = self._remember(before, table)
            self._apply(table)
        for image in annotator.images.values():
            image.recolour(annotator.classes)

    def undo(self) -> str:
        """Bring back the class that was removed last; returns its name."""
        removed, self.removed = self.removed, None
        if removed is None:
            return ""
        annotator = self._annotator
        annotator.flush()
        row = removed.code - 1
        now = list(annotator.classes)
        annotator.classes.replace([*now[:row], removed.one, *now[row:]])
        self._before = list(annotator.classes)
        table = no_change()
        table[removed.code : len(now) + 1] += 1
        self._apply(table)
        for (key, index), flat in removed.strokes.items():
            image = annotator.images.get(key)
            if image is None or image.scribbles is None:
                continue
            free = image.plane("scribbles", index).reshape(-1)[flat] == 0
            codes = np.full(int(free.sum()), removed.code, np.uint8)
            image.put_strokes(index, flat[free], codes)
            annotator.look(image, index)
        for image in annotator.images.values():
            image.recolour(annotator.classes)
            if image.scribbles is not None:
                image.scribbles.refresh()
        return removed.one.name

    def _remember(self, before: list[AnnotationClass], table: np.ndarray) -> RemovedClass | None:
        gone = [code for code in range(1, len(before) + 1) if table[code] == 0]
        if len(gone) != 1:
            return None
        removed = RemovedClass(before[gone[0] - 1], gone[0])
        for image, index in self._annotator.painted():
            flat = np.flatnonzero(image.plane("scribbles", index) == gone[0])
            if len(flat):
                removed.strokes[image.key, index] = flat
        return removed

    def _apply(self, table: np.ndarray) -> None:
        """New codes in the layers and in the book; the worker is told with the next preview."""
        annotator = self._annotator
        annotator.new_codes()
        planes = {(image.key, index) for image, index in annotator.painted()}
        for image in annotator.images.values():
            for role, chosen in (("scribbles", planes), ("preview", annotator.previewed)):
                layer = image.layer(role)
                if layer is None:
                    continue
                for key, index in chosen:
                    if key == image.key:
                        plane = image.plane(role, index)
                        image.write(role, index, None, table[plane], shown=False)
                if role == "scribbles":
                    forget_history(layer)
                layer.refresh()
        annotator.keeper.recode(table, annotator.classes.as_values())


def forget_history(layer: Any) -> None:
    """Undo would bring back strokes in codes that mean something else now."""
    reset = getattr(layer, "_reset_history", None)
    if reset is not None:
        reset()
