"""The classes of an annotation: names, colours, and what their codes become when they change.

Scribble and preview layers hold codes: 0 = not annotated, 1 = background, 2… = classes. A class's
code is its place in the list plus one, so that moving or removing a class gives others new codes.
Each such change returns the table of new codes that every stroke has to go through.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dinoscope.arrays.labels import SCRIBBLE_BACKGROUND
from dinoscope.errors import InputError
from dinoscope.widgets._classes import CLASS_COLOURS

#: As many as leave 255 free, which means "ignore" elsewhere.
MOST_CLASSES = 200
BACKGROUND_COLOUR = "#7a8a99"
BACKGROUND_NAME = "background"
_CODES = 256


@dataclass(frozen=True)
class AnnotationClass:
    """A class as the user sees it; `colour` is ``#rrggbb``."""

    name: str
    colour: str


def default_classes() -> list[AnnotationClass]:
    """Background and one class to begin with."""
    return [
        AnnotationClass(BACKGROUND_NAME, BACKGROUND_COLOUR),
        AnnotationClass("cells", CLASS_COLOURS[0]),
    ]


def no_change() -> np.ndarray:
    """The table that leaves every code as it is."""
    return np.arange(_CODES, dtype=np.uint8)


class ClassList:
    """An ordered list of classes, background first.

    Examples
    --------
    >>> classes = ClassList()
    >>> classes.add("nuclei")
    2
    >>> classes.remove(1)[:4].tolist()
    [0, 1, 0, 2]
    >>> classes.names
    ['background', 'nuclei']
    """

    def __init__(self, classes: Sequence[AnnotationClass] = ()) -> None:
        self._classes = list(classes) or default_classes()

    def __len__(self) -> int:
        return len(self._classes)

    def __iter__(self) -> Iterator[AnnotationClass]:
        return iter(list(self._classes))

    def __getitem__(self, row: int) -> AnnotationClass:
        return self._classes[row]

    @property
    def names(self) -> list[str]:
        return [one.name for one in self._classes]

    @property
    def colours(self) -> list[str]:
        return [one.colour for one in self._classes]

    @staticmethod
    def code(row: int) -> int:
        """The code of the class in a row."""
        return row + SCRIBBLE_BACKGROUND

    def row(self, code: int) -> int | None:
        """The row of a code; ``None`` where it is no class."""
        row = code - SCRIBBLE_BACKGROUND
        return row if 0 <= row < len(self) else None

    def as_values(self) -> list[tuple[str, str]]:
        """Names and colours, for a project."""
        return [(one.name, one.colour) for one in self._classes]

    def replace(self, classes: Iterable[Any]) -> None:
        """Take other classes, of a project for example: anything with a name and a colour."""
        self._classes = [AnnotationClass(one.name, one.colour) for one in classes]

    def add(self, name: str = "") -> int:
        """Append a class; returns its row.

        Raises
        ------
        InputError
            The name is taken, or there are too many classes.
        """
        if len(self) >= MOST_CLASSES:
            raise InputError(f"there are {len(self)} classes", expected=f"at most {MOST_CLASSES}")
        if not name:
            number = len(self)
            while f"class {number}" in self.names:
                number += 1
            name = f"class {number}"
        self._check(name)
        self._classes.append(AnnotationClass(name, self._free_colour()))
        return len(self) - 1

    def rename(self, row: int, name: str) -> None:
        """Give a class another name; its strokes are as they were.

        Raises
        ------
        InputError
            The name is empty or taken.
        """
        name = name.strip()
        if name != self._classes[row].name:
            self._check(name)
            self._classes[row] = replace(self._classes[row], name=name)

    def recolour(self, row: int, colour: str) -> None:
        """Give a class another colour, ``#rrggbb``."""
        self._classes[row] = replace(self._classes[row], colour=colour)

    def remove(self, row: int) -> np.ndarray:
        """Take a class away; returns the ``(256,)`` uint8 table from old codes to new ones.

        Its own strokes become "not annotated".

        Raises
        ------
        InputError
            It is the background, or the last class.
        """
        if row == 0:
            raise InputError(
                f"{self._classes[0].name!r} is the background", expected="one of the other classes"
            )
        if len(self) <= 2:
            raise InputError(
                f"{self._classes[row].name!r} is the only class besides the background",
                hint="Add another one first, or rename it.",
            )
        left = [r for r in range(len(self)) if r != row]
        return self._reorder(left)

    def move(self, row: int, to: int) -> np.ndarray:
        """Move a class; returns the ``(256,)`` uint8 table from old codes to new ones.

        Raises
        ------
        InputError
            The background would not be first any more.
        """
        to = min(max(to, 0), len(self) - 1)
        if row == 0 or to == 0:
            if row == to:
                return no_change()
            raise InputError("the background is always first")
        order = list(range(len(self)))
        order.insert(to, order.pop(row))
        return self._reorder(order)

    def _reorder(self, order: Sequence[int]) -> np.ndarray:
        """Keep the classes in the rows `order`, in that order."""
        table = no_change()
        table[self.code(0) : self.code(len(self))] = 0
        for new, old in enumerate(order):
            table[self.code(old)] = self.code(new)
        self._classes = [self._classes[r] for r in order]
        return table

    def _check(self, name: str) -> None:
        if not name:
            raise InputError("a class needs a name", expected="for example: nuclei")
        if name in self.names:
            raise InputError(f"there is a class {name!r} already", expected="another name")

    def _free_colour(self) -> str:
        used = set(self.colours) if hasattr(self, "_classes") else set()
        free = [c for c in CLASS_COLOURS if c not in used]
        return free[0] if free else CLASS_COLOURS[len(self) % len(CLASS_COLOURS)]
