"""Which annotations judge a model: whole images, slices or regions that it never trains on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

import numpy as np

from dinoscope.engine.dataset import TrainingImage
from dinoscope.engine.improve.material import AnnotatedPlane, Material
from dinoscope.tasks.base import IGNORE

#: Share of the annotations that is held out.
SHARE = 0.25
#: Whole images or slices are held out from so many of them on.
LEAST_UNITS = 4
#: At most so many runs of neighbouring slices are told apart in a stack.
MOST_RUNS = 8
#: Regions of a plane along each side, and the smallest side of one.
REGIONS, LEAST_REGION_PX = 4, 40
#: Fewer held-out pixels, objects or examples of a class than this do not judge anything.
LEAST_HELD = {"semantic": 40, "instance": 3, "depth": 400, "classification": 2}
#: Ways to hold out that are looked at.
DRAWS = 400
FOLDS = 3

Counts = dict[tuple[str, int], float]
#: Rows and columns of a plane.
Region = tuple[slice, slice]
#: A plane, and the region of it where it is not meant as a whole.
Unit = list[tuple[int, Region | None]]


@dataclass(frozen=True)
class Part:
    """What trains and what judges."""

    training: tuple[AnnotatedPlane, ...]
    held: tuple[AnnotatedPlane, ...]


@dataclass(frozen=True)
class Holdout:
    """One part, or several where each annotation judges once (cross-validation).

    `text` completes "judged on …" for the user.
    """

    parts: tuple[Part, ...]
    text: str

    @property
    def crossed(self) -> bool:
        """Whether this is cross-validation."""
        return len(self.parts) > 1


def hold_out(material: Material, seed: int) -> Holdout:
    """Choose what judges: about a quarter, with every class on both sides.

    Whole images where there are several, else runs of neighbouring slices, else regions of a plane.
    Where that leaves too little of a class, each region judges once (cross-validation).
    """
    planes = material.planes
    units, what = _units(planes)
    counts = [_counts(planes, unit) for unit in units]
    rng = np.random.default_rng(seed)
    chosen = _choose(counts, rng)
    if chosen is not None:
        part = _part(planes, [units[i] for i in chosen])
        text = f"{len(chosen)} of {len(units)} annotated {what}, held out and never trained on"
        return Holdout((part,), text)
    folds = min(FOLDS, len(units))
    if folds < 2:
        return Holdout(
            (Part(planes, ()),),
            "nothing: too little is annotated to hold anything out",
        )
    order = rng.permutation(len(units))
    parts = [_part(planes, [units[i] for i in order[number::folds]]) for number in range(folds)]
    kept = tuple(p for p in parts if p.held and p.training)
    text = (
        f"{what} that each of {len(kept)} trainings did not see (cross-validated: too little is "
        "annotated to hold out enough of every class)"
    )
    return Holdout(kept, text)


def _units(planes: Sequence[AnnotatedPlane]) -> tuple[list[Unit], str]:
    """What may be held out as a whole, and what to call it."""
    sources = list(dict.fromkeys(p.source for p in planes))
    if len(sources) >= LEAST_UNITS:
        return [
            [(i, None) for i, p in enumerate(planes) if p.source == s] for s in sources
        ], "images"
    if len(planes) >= LEAST_UNITS:
        runs: list[Unit] = []
        for source in sources:
            own = [i for i, p in enumerate(planes) if p.source == source]
            own.sort(key=lambda i: planes[i].index)
            count = max(1, min(len(own), MOST_RUNS, round(MOST_RUNS * len(own) / len(planes))))
            runs += [[(int(i), None) for i in run] for run in np.array_split(own, count)]
        if len(runs) >= LEAST_UNITS:
            return runs, "runs of slices"
    regions: list[Unit] = []
    for number, plane in enumerate(planes):
        for region in _regions(plane.image):
            regions.append([(number, region)])
    return regions, "regions"


def _regions(image: TrainingImage) -> list[Region]:
    """The rectangles of a grid over a plane."""
    runs = []
    for length in image.pixels.shape[1:]:
        count = int(np.clip(length // LEAST_REGION_PX, 1, REGIONS))
        edges = np.linspace(0, length, count + 1).round().astype(int).tolist()
        runs.append([slice(*ends) for ends in pairwise(edges)])
    rows, columns = runs
    return list(product(rows, columns))


def _mask(image: TrainingImage, regions: Sequence[Region]) -> np.ndarray:
    """``(Y, X)`` bool: what lies in one of the regions."""
    mask = np.zeros(image.pixels.shape[1:], bool)
    for region in regions:
        mask[region] = True
    return mask


def _counts(planes: Sequence[AnnotatedPlane], unit: Unit) -> Counts:
    """Annotations of a unit by task and class."""
    counts: Counts = {}
    for number, region in unit:
        plane = planes[number]
        mask = None if region is None else _mask(plane.image, [region])
        image = plane.image if mask is None else _within(plane.image, mask)
        for task, truth in image.targets.items():
            if isinstance(truth, np.ndarray):
                for value, n in _classes(task, truth).items():
                    counts[task, value] = counts.get((task, value), 0) + n
            else:
                counts[task, truth] = counts.get((task, truth), 0) + 1
        for box, centre in zip(plane.objects, plane.centres, strict=True):
            if mask is None or _at(mask, centre):
                value = int(box.targets["classification"])
                key = ("classification", value)
                counts[key] = counts.get(key, 0) + 1
    return counts


def _classes(task: str, truth: np.ndarray) -> dict[int, float]:
    if task == "semantic":
        found = np.bincount(truth.ravel(), minlength=IGNORE)[:IGNORE]
        return {int(c): float(found[c]) for c in np.flatnonzero(found)}
    if task == "instance":
        return {0: float(len(np.unique(truth[truth > 0])))}
    return {0: float(np.isfinite(truth).sum())}


def _choose(counts: Sequence[Counts], rng: np.random.Generator) -> list[int] | None:
    """Units to hold out; ``None`` where no choice leaves enough of every class on both sides."""
    keys = sorted({key for c in counts for key in c})
    table = np.array([[c.get(key, 0.0) for key in keys] for c in counts])
    total = table.sum(0)
    least = np.array([float(LEAST_HELD[task]) for task, _ in keys])
    useful = np.flatnonzero(table.sum(1) > 0)
    if len(useful) < 2:
        return None
    size = max(1, round(SHARE * len(useful)))
    best: tuple[float, list[int]] | None = None
    for draw in range(DRAWS):
        more = size + draw % 3 - 1  # a little fewer and more, where that balances better
        chosen = rng.permutation(useful)[: int(np.clip(more, 1, len(useful) - 1))]
        held = table[chosen].sum(0)
        if (held < least).any() or (total - held < least).any():
            continue
        cost = float(np.abs(held / total - SHARE).sum())
        if best is None or cost < best[0]:
            best = cost, sorted(int(i) for i in chosen)
    return None if best is None else best[1]


def _part(planes: Sequence[AnnotatedPlane], held: Sequence[Unit]) -> Part:
    """Planes without what is held, and what is held without the rest."""
    whole = {number for unit in held for number, region in unit if region is None}
    regions: dict[int, list[Region]] = {}
    for unit in held:
        for number, region in unit:
            if region is not None:
                regions.setdefault(number, []).append(region)
    training: list[AnnotatedPlane] = []
    judged: list[AnnotatedPlane] = []
    for number, plane in enumerate(planes):
        if number in whole:
            judged.append(plane)
        elif number in regions:
            mask = _mask(plane.image, regions[number])
            training.append(_reduced(plane, ~mask, keep_class=True))
            judged.append(_reduced(plane, mask, keep_class=False))
        else:
            training.append(plane)
    return Part(_not_empty(training), _not_empty(judged))


def _not_empty(planes: Sequence[AnnotatedPlane]) -> tuple[AnnotatedPlane, ...]:
    return tuple(p for p in planes if p.image.targets or p.objects)


def _reduced(plane: AnnotatedPlane, mask: np.ndarray, *, keep_class: bool) -> AnnotatedPlane:
    image = _within(plane.image, mask)
    if keep_class and "classification" in plane.image.targets:
        targets: Mapping[str, np.ndarray | int] = plane.image.targets
        image = replace(
            image, targets={**image.targets, "classification": targets["classification"]}
        )
    kept = [n for n, centre in enumerate(plane.centres) if _at(mask, centre)]
    return replace(
        plane,
        image=image,
        objects=tuple(plane.objects[n] for n in kept),
        centres=tuple(plane.centres[n] for n in kept),
    )


def _at(mask: np.ndarray, centre: tuple[float, float]) -> bool:
    y, x = (int(np.clip(c, 0, n - 1)) for c, n in zip(centre, mask.shape, strict=True))
    return bool(mask[y, x])


def _within(image: TrainingImage, mask: np.ndarray) -> TrainingImage:
    """The dense truths within `mask`; an object that lies across its edge is unknown as a whole."""
    targets: dict[str, np.ndarray | int] = {}
    for task, truth in image.targets.items():
        if not isinstance(truth, np.ndarray):
            continue
        if task == "semantic":
            kept = np.where(mask, truth, np.uint8(IGNORE))
            known = bool((kept != IGNORE).any())
        elif task == "instance":
            across = np.intersect1d(truth[mask & (truth > 0)], truth[~mask & (truth > 0)])
            kept = np.where(mask & ~np.isin(truth, across), truth, np.int32(-1))
            known = bool((kept > 0).any())
        else:
            kept = np.where(mask, truth, np.float32(np.nan))
            known = bool(np.isfinite(kept).any())
        if known:
            targets[task] = kept.astype(truth.dtype)
    return replace(image, targets=targets)
