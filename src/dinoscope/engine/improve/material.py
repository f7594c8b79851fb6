"""From a project's annotations to images with truths, in which what nobody said is unknown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dinoscope.arrays.axes import read_plane
from dinoscope.arrays.labels import scribbles_to_classes, typical_diameter
from dinoscope.arrays.normalize import Normalization, limits, to_model_input
from dinoscope.engine.dataset import TrainingImage
from dinoscope.errors import DinoscopeError, InputError
from dinoscope.project import Project
from dinoscope.tasks.base import IGNORE
from dinoscope.types import ImageInput

Index = tuple[int, ...]
#: Pixels around what is annotated that are kept of a large plane.
SURROUNDINGS_PX = 256
#: An object's class is learned from its box, widened by this share of its side.
OBJECT_MARGIN = 0.25
#: Strokes of a task on fewer pixels are no task.
LEAST_PIXELS = 10


@dataclass(frozen=True)
class AnnotatedPlane:
    """One plane with its truths.

    `image` is cut to what is annotated and its surroundings, `origin` says from where. `objects`
    are boxes of objects with a class of their own, `centres` where in `image` those are.
    """

    source: str
    index: Index
    image: TrainingImage
    origin: tuple[int, int] = (0, 0)
    objects: tuple[TrainingImage, ...] = ()
    centres: tuple[tuple[float, float], ...] = ()

    @property
    def key(self) -> str:
        """Source and index in one word."""
        return f"{self.source}@{'_'.join(map(str, self.index))}"


@dataclass(frozen=True)
class Material:
    """Everything that a project has to learn from.

    `classes` are the names of the semantic head, background first; `named` those of the
    classification. `problems` are what was left out and why.
    """

    planes: tuple[AnnotatedPlane, ...]
    classes: tuple[str, ...]
    named: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    unlabelled: tuple[TrainingImage, ...] = field(default=())

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that there are truths for."""
        found = [t for p in self.planes for i in (p.image, *p.objects) for t in i.targets]
        return tuple(dict.fromkeys(found))

    def pixels_of(self) -> dict[str, int]:
        """Annotated pixels of each semantic class."""
        counts = np.zeros(256, np.int64)
        for plane in self.planes:
            if "semantic" in plane.image.targets:
                counts += np.bincount(
                    np.asarray(plane.image.targets["semantic"]).ravel(), minlength=256
                )
        return {name: int(n) for name, n in zip(self.classes, counts, strict=False)}


def gather(
    project: Project,
    normalization: Normalization,
    images: Mapping[str, ImageInput] | None = None,
    *,
    check: Callable[[], None] = lambda: None,
) -> Material:
    """Read a project's annotated planes.

    Parameters
    ----------
    project : Project
        What was annotated.
    normalization : Normalization
        As the trained model's card will have it.
    images : mapping, optional
        Images by the id of their source, for those that are open; others are read from their files.
    check : callable
        Called between planes; may raise to cancel.

    Raises
    ------
    InputError
        Nothing is annotated, or no image of what is can be read.
    """
    problems: list[str] = []
    names = tuple(entry.name for entry in project.classes)
    codes = _used_codes(project)
    named = tuple(names[c - 1] for c in codes if c <= len(names))
    numbers = {c: n for n, c in enumerate(c for c in codes if c <= len(names))}
    if len(named) < 2:
        if numbers:
            problems.append(
                f"Only the class {named[0]!r} was given to images or objects: two are needed."
            )
        named, numbers = (), {}
    planes: list[AnnotatedPlane] = []
    for source in project.sources:
        indices = project.planes(source)
        if not indices:
            continue
        try:
            image = (images or {}).get(source) or project.open_image(source)
            bounds = limits(image, normalization)
        except DinoscopeError as error:
            problems.append(f"{project.source(source).name} is left out: {error}")
            continue
        for index in indices:
            check()
            plane = _plane(project, source, index, image, bounds, normalization, numbers)
            if plane is not None:
                planes.append(plane)
    found = Material(tuple(planes), names, named, tuple(problems))
    if not planes:
        raise InputError(
            "nothing that can be learned from is annotated in this project"
            + (": " + " ".join(problems) if problems else ""),
            expected="strokes of two classes, objects, depth or classes of images",
        )
    return _without_lone_tasks(found)


def _used_codes(project: Project) -> list[int]:
    """Class codes that were given to images or objects, ascending."""
    found: set[int] = set()
    for source in project.sources:
        for index in project.planes(source):
            code = project.image_class(source, index)
            found |= {code} if code else set()
            found |= set(project.objects(source, index).classes.values())
    return sorted(found)


def _plane(
    project: Project,
    source: str,
    index: Index,
    image: ImageInput,
    bounds: np.ndarray,
    normalization: Normalization,
    numbers: Mapping[int, int],
) -> AnnotatedPlane | None:
    truths: dict[str, np.ndarray | int] = {}
    strokes = scribbles_to_classes(project.dense(source, index))
    if int((strokes != IGNORE).sum()) >= LEAST_PIXELS:
        truths["semantic"] = strokes
    objects = project.corrected_objects(source, index)
    area = project.area_mask(source, index)
    if objects.any():
        truths["instance"] = instance_truth(objects, area, strokes)
    depth = project.depth(source, index)
    if depth is not None and bool(np.isfinite(depth).any()):
        truths["depth"] = depth
    boxes: list[tuple[slice, slice]] = []
    codes: list[int] = []
    for number, code in project.objects(source, index).classes.items():
        box = _box(objects == number, OBJECT_MARGIN)
        if box is not None and code in numbers:
            boxes.append(box)
            codes.append(numbers[code])
    whole = numbers.get(project.image_class(source, index) or 0)
    if not truths and not boxes and whole is None:
        return None
    name = f"{source}@{'_'.join(map(str, index))}"
    plane = read_plane(image, index)
    pixels = to_model_input(plane, bounds, normalization).astype(np.float16)
    if whole is not None:
        truths["classification"] = whole
    window = (slice(0, pixels.shape[1]), slice(0, pixels.shape[2]))
    if truths and "depth" not in truths and whole is None:
        window = _window(truths)
    cut = {
        task: np.array(t[window]) if isinstance(t, np.ndarray) else t for task, t in truths.items()
    }
    diameter = None
    if "instance" in cut:
        diameter = typical_diameter(np.maximum(np.asarray(cut["instance"]), 0))
    parts = tuple(
        TrainingImage(
            f"{name}#{number}", name, pixels[:, box[0], box[1]].copy(), {"classification": c}, None
        )
        for number, (box, c) in enumerate(zip(boxes, codes, strict=True))
    )
    own = np.ascontiguousarray(pixels[(slice(None), *window)])
    made = TrainingImage(
        name,
        name,
        own,
        {t: np.array(v) if isinstance(v, np.ndarray) else v for t, v in cut.items()},
        diameter,
    )
    origin = (int(window[0].start), int(window[1].start))
    centres = tuple(
        ((b[0].start + b[0].stop) / 2 - origin[0], (b[1].start + b[1].stop) / 2 - origin[1])
        for b in boxes
    )
    return AnnotatedPlane(source, index, made, origin, parts, centres)


def instance_truth(objects: np.ndarray, area: np.ndarray, strokes: np.ndarray) -> np.ndarray:
    """``(Y, X)`` int32 ids in which -1 is unknown.

    Inside an annotated area 0 is background; outside it only objects, and what was painted as
    background, are known.

    Examples
    --------
    >>> objects = np.array([[0, 3, 0]], np.uint32)
    >>> strokes = np.array([[255, 255, 0]], np.uint8)
    >>> instance_truth(objects, np.zeros((1, 3), bool), strokes).tolist()
    [[-1, 3, 0]]
    """
    truth = objects.astype(np.int32)
    truth[(objects == 0) & ~area & (strokes != 0)] = -1
    return truth


def _box(mask: np.ndarray, margin: float) -> tuple[slice, slice] | None:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    slices = []
    for found, length in ((rows, mask.shape[0]), (columns, mask.shape[1])):
        low, high = int(found[0]), int(found[-1]) + 1
        more = max(4, round(margin * (high - low)))
        slices.append(slice(max(0, low - more), min(length, high + more)))
    return slices[0], slices[1]


def _window(truths: Mapping[str, np.ndarray | int]) -> tuple[slice, slice]:
    """What is annotated of a plane, with its surroundings."""
    known = np.zeros(next(t.shape for t in truths.values() if isinstance(t, np.ndarray)), bool)
    for task, truth in truths.items():
        if isinstance(truth, np.ndarray):
            known |= truth >= 0 if task == "instance" else truth != IGNORE
    return around(known, SURROUNDINGS_PX)


def around(known: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Rows and columns of what is true in ``(Y, X)``, with a margin; all where nothing is."""
    rows, columns = np.flatnonzero(known.any(1)), np.flatnonzero(known.any(0))
    if not len(rows):
        return slice(0, known.shape[0]), slice(0, known.shape[1])
    height, width = known.shape
    return (
        slice(max(0, int(rows[0]) - margin), min(height, int(rows[-1]) + 1 + margin)),
        slice(max(0, int(columns[0]) - margin), min(width, int(columns[-1]) + 1 + margin)),
    )


def _without_lone_tasks(material: Material) -> Material:
    """Leave out semantic strokes of one class only: there is nothing to tell apart."""
    counts = {name: n for name, n in material.pixels_of().items() if n}
    if "semantic" not in material.tasks or len(counts) >= 2:
        return material
    problem = f"Strokes are all of the class {next(iter(counts), '?')!r}: a second one is needed."
    planes = []
    for plane in material.planes:
        targets = {t: v for t, v in plane.image.targets.items() if t != "semantic"}
        if targets or plane.objects:
            planes.append(replace(plane, image=replace(plane.image, targets=targets)))
    if not planes:
        raise InputError(problem.rstrip("."), expected="strokes of two classes or more")
    return replace(material, planes=tuple(planes), problems=(*material.problems, problem))


def training_images(planes: Sequence[AnnotatedPlane]) -> Iterator[TrainingImage]:
    """The planes with truths of their own, and the boxes of classified objects."""
    for plane in planes:
        if plane.image.targets:
            yield plane.image
        yield from plane.objects
