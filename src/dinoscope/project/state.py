"""What a project knows, and how each record of the journal changes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from dinoscope.errors import InputError
from dinoscope.project.planes import SparsePlane
from dinoscope.project.records import Record, decode_pixels
from dinoscope.project.references import ImageRef

Index = tuple[int, ...]
#: What can be painted on, and the type of its codes.
LAYERS: dict[str, type[np.unsignedinteger]] = {
    "strokes": np.uint8,
    "objects": np.uint32,
    "area": np.uint8,
}
#: Colours of classes that nobody chose one for; the first is the background's.
COLOURS = (
    "#8c8c8c",
    "#e41a1c",
    "#377eb8",
    "#4daf4a",
    "#ff7f00",
    "#984ea3",
    "#f0e442",
    "#a65628",
    "#f781bf",
)


@dataclass(frozen=True)
class ClassEntry:
    """A class: the first of a project is the background. Its code in layers is its place + 1."""

    name: str
    colour: str = ""


@dataclass
class PlaneState:
    """What was annotated on one plane of one image."""

    painted: dict[str, SparsePlane] = field(default_factory=dict)
    complete: bool = False
    polygons: list[list[list[float]]] = field(default_factory=list)
    object_classes: dict[int, int] = field(default_factory=dict)
    #: Checksums of the pixels of objects that a program found.
    found: set[int] = field(default_factory=set)
    image_class: int | None = None
    depth: dict[str, Any] | None = None

    def __bool__(self) -> bool:
        return bool(
            any(self.painted.values())
            or self.complete
            or self.polygons
            or self.object_classes
            or self.found
            or self.image_class is not None
            or self.depth
        )


@dataclass
class State:
    """Everything a project's journal and snapshot hold."""

    classes: list[ClassEntry] = field(default_factory=list)
    sources: dict[str, ImageRef] = field(default_factory=dict)
    planes: dict[tuple[str, Index], PlaneState] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def plane(self, source: str, index: Index) -> PlaneState:
        """The plane's state, made where there is none."""
        return self.planes.setdefault((source, index), PlaneState())

    def of(self, source: str) -> Iterator[tuple[Index, PlaneState]]:
        """The planes of a source that hold anything, by index."""
        for (name, index), plane in sorted(self.planes.items()):
            if name == source and plane:
                yield index, plane

    def apply(self, record: Record) -> None:
        """Change what a record says; kinds of records that a later version added are left out.

        Raises
        ------
        ValueError, KeyError, TypeError
            The record makes no sense.
        """
        h = record.header
        change = _CHANGES.get(str(h["op"]))
        if change is not None:
            change(self, h, record.blob)


def _plane(state: State, h: Mapping[str, Any]) -> PlaneState:
    return state.plane(str(h["source"]), tuple(int(i) for i in h["index"]))


def _paint(state: State, h: Mapping[str, Any], blob: bytes) -> None:
    layer = str(h["layer"])
    flat, codes = decode_pixels(blob)
    plane = _plane(state, h)
    painted = plane.painted.setdefault(layer, SparsePlane(LAYERS[layer]))
    painted.paint(flat, codes)


def _classes(state: State, h: Mapping[str, Any], blob: bytes) -> None:
    state.classes = class_entries([(c["name"], c["colour"]) for c in h["classes"]])


def _source(state: State, h: Mapping[str, Any], blob: bytes) -> None:
    reference = ImageRef.from_json(h["reference"])
    state.sources[reference.id] = reference


def _complete(state: State, h: Mapping[str, Any], blob: bytes) -> None:
    _plane(state, h).complete = bool(h["value"])


def _polygons(state: State, h: Mapping[str, Any], blob: bytes) -> None:
    _plane(state, h).polygons = [[[float(y), float(x)] for y, x in p] for p in h["value"]]


def _object_class(state: State, h: Mapping[str, Any], blob: bytes) -> None:
    known = _plane(state, h).object_classes
    for number, code in dict(h["value"]).items():
        if code:
            known[int(number)] = int(code)
        else:
            known.pop(int(number), None)


def _found(state: State, h: Mapping[str, Any], blob: bytes) -> None:
    _plane(state, h).found |= {int(c) for c in h["value"]}


def _image_class(state: State, h: Mapping[str, Any], blob: bytes) -> None:
    value = h["value"]
    _plane(state, h).image_class = None if value is None else int(value)


def _depth(state: State, h: Mapping[str, Any], blob: bytes) -> None:
    value = h["value"]
    _plane(state, h).depth = None if value is None else dict(value)


def _settings(state: State, h: Mapping[str, Any], blob: bytes) -> None:
    state.settings.update(h["value"])


_CHANGES = {
    "paint": _paint,
    "classes": _classes,
    "source": _source,
    "complete": _complete,
    "area": _polygons,
    "object_class": _object_class,
    "found": _found,
    "image_class": _image_class,
    "depth": _depth,
    "settings": _settings,
}


def class_entries(classes: Sequence[Any]) -> list[ClassEntry]:
    """Names, ``(name, colour)`` pairs or entries, each with a colour.

    Raises
    ------
    InputError
        Two classes of one name, an empty name, fewer than two or more than 250 classes.
    """
    found = []
    for number, entry in enumerate(classes):
        if isinstance(entry, ClassEntry):
            name, colour = entry.name, entry.colour
        elif isinstance(entry, str):
            name, colour = entry, ""
        else:
            name, colour = str(entry[0]), str(entry[1])
        spare = COLOURS[0] if number == 0 else COLOURS[1 + (number - 1) % (len(COLOURS) - 1)]
        found.append(ClassEntry(name.strip(), colour or spare))
    names = [entry.name for entry in found]
    if len(set(names)) != len(names) or not all(names) or not 2 <= len(names) <= 250:
        raise InputError(
            f"classes are {names!r}", expected="2 to 250 different names, the background first"
        )
    return found


def class_values(classes: Sequence[ClassEntry]) -> list[dict[str, str]]:
    """Classes as JSON has them."""
    return [asdict(entry) for entry in classes]
