"""Dense truths between the strokes, from what the fast loop says, and its areas of classes.

A network that learns from a forest's probabilities smooths its mistakes away (distillation, Hinton
et al. 2015, arXiv:1503.02531), but comes closer to those too as it learns on. So every now and then
the truths are drawn anew, from what both say together. Strokes lie well inside what they name, so a
network that fits them draws thin classes too thick; the forest, whose leaves count classes by their
area, does not.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from dinoscope.arrays.resample import resample, scaled_shape
from dinoscope.engine.dataset import TrainingImage
from dinoscope.engine.dense import Runner
from dinoscope.engine.fit import Validate
from dinoscope.engine.improve.baseline import FastLoop
from dinoscope.engine.improve.material import AnnotatedPlane
from dinoscope.engine.improve.training import Setting
from dinoscope.models.heads import DenseHead
from dinoscope.models.model import Model
from dinoscope.tasks.base import IGNORE
from dinoscope.types import Progress

#: How often the classes of a plane are drawn: no single pixel's draw is learned by heart.
DRAWS = 3
#: A probability is taken for no smaller than this.
_LEAST = 1e-7
#: How often each class's area is matched, and how many pixels are looked at.
_ROUNDS, _LOOKED_AT = 6, 200_000
#: Every how manyth row and column of a plane is looked at: odd, as a head has outputs of their own
#: for even and odd pixels.
_STEP = 3
#: So many times the surprise of held-out strokes is clearly more.
_CLEARLY = 1.25
#: Truths are drawn anew in windows of at most this side, for at most about this share of the time.
WINDOW_PX, TIME_SHARE = 1024, 0.07
#: Fast loop and network count alike; neither is surer than this that something is not so.
_SHARE, _FLOOR = 0.5, 1e-3

#: Rows and columns of a plane.
_Window = tuple[slice, slice]


@dataclass(frozen=True)
class Teacher:
    """What is said of every pixel of some planes.

    `images` have the strokes that train as their truth, and nothing elsewhere; `maps` are
    probabilities ``(K, Y, X)`` uint8, 255 being 1; `weights` (K,) how much a painted pixel of each
    class counts, for the class's area.
    """

    images: tuple[TrainingImage, ...] = ()
    maps: tuple[np.ndarray, ...] = ()
    weights: tuple[float, ...] = ()

    def areas(self) -> np.ndarray:
        """``(K,)`` share of the pixels of each class, by the likeliest class."""
        return _areas(self.maps)


def fast_teacher(
    loop: FastLoop, planes: Sequence[AnnotatedPlane]
) -> Generator[Progress, None, Teacher]:
    """What a fitted fast loop says of planes with strokes."""
    images, found = [], []
    for plane in planes:
        if "semantic" in plane.image.targets:
            maps = yield from loop.probabilities(plane)
            strokes = plane.image.targets["semantic"]
            images.append(replace(plane.image, targets={"semantic": strokes}))
            found.append(np.rint(255 * maps).astype(np.uint8))
    return Teacher(tuple(images), tuple(found), tuple(loop.weights()))


class Guides:
    """Planes with a dense truth, drawn from what a teacher says: at first the fast loop alone.

    `images` are trained on; what they hold as truth changes in place.
    """

    def __init__(self, teacher: Teacher, setting: Setting) -> None:
        self.teacher = teacher
        self._rng = np.random.default_rng(setting.options.seed)
        self._last = setting.clock()
        pairs = list(zip(teacher.images, teacher.maps, strict=True))
        self._drawn = [[guided(i, m, self._rng) for _ in range(DRAWS)] for i, m in pairs]
        self.images = [image for drawn in self._drawn for image in drawn]
        planes = [_windows(maps.shape[1:]) for maps in teacher.maps]
        self._windows = [(n, window) for n, windows in enumerate(planes) for window in windows]
        self._next = 0
        #: Some places of each window: what both say there, and the fast loop alone.
        self._seen: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def draw_anew(self, model: Model, setting: Setting) -> None:
        """Draw the truths again, from what fast loop and network say together (the geometric mean
        of their probabilities), with the areas that the fast loop sees.

        As many windows as there is time for, in turn: there may be many large planes.
        """
        runner = Runner(model, setting.device, setting.autocast)
        begun = setting.clock()
        found: list[tuple[int, _Window, np.ndarray]] = []
        for _ in range(len(self._windows)):
            number, window = self._windows[self._next]
            fast = self.teacher.maps[number][:, *window]
            both = _SHARE * _logs(fast.astype(np.float32) / 255, _FLOOR)
            part = _cut(self.teacher.images[number], window)
            both += (1 - _SHARE) * _logs(_said(runner, part, setting), _FLOOR)
            found.append((number, window, both))
            most = _LOOKED_AT // len(self._windows)
            self._seen[self._next] = _some([both], most), _some([fast], most)
            self._next = (self._next + 1) % len(self._windows)
            if setting.clock() - begun > TIME_SHARE * (begun - self._last):
                break
        self._last = begun
        if not found:
            return
        seen, alone = (np.concatenate(each, 1) for each in zip(*self._seen.values(), strict=True))
        shift = shifts_for(seen, _areas([alone]))
        for number, window, both in found:
            said = np.exp(both + shift[:, None, None])
            part = _cut(self.teacher.images[number], window)
            for image in self._drawn[number]:
                truth = np.asarray(image.targets["semantic"])
                truth[window] = guided(part, said, self._rng).targets["semantic"]

    def while_judging(self, validate: Validate | None, setting: Setting) -> Validate | None:
        """`validate`, and the truths drawn anew each time that it is called."""
        if not self.images:
            return validate

        def look(model: Model) -> Mapping[str, float]:
            scores = validate(model) if validate else {}
            self.draw_anew(model, setting)
            return scores

        return look


def match_areas(
    model: Model, teacher: Teacher, setting: Setting, validate: Validate | None = None
) -> Generator[Progress, None, Mapping[str, float]]:
    """Shift the semantic head's biases until classes have the areas that the teacher sees; returns
    the scores that the model then has.

    Where that makes held-out strokes clearly less likely, the teacher sees wrong areas, and nothing
    is shifted. A little less is no sign: strokes lie inside what they name, not at its edges.
    """
    before = validate(model) if validate else {}
    head = model.heads["semantic"] if teacher.maps else None
    if not isinstance(head, DenseHead) or head.out.bias is None:
        return before
    logs = []
    for number, image in enumerate(teacher.images):
        yield Progress("prepare", number, len(teacher.images), message="areas of classes")
        maps = _said(Runner(model, setting.device, setting.autocast), image, setting)
        logs.append(_logs(maps[:, ::_STEP, ::_STEP], _LEAST))
    shift = shifts_for(_some(logs, _LOOKED_AT, step=1), teacher.areas())
    each = torch.from_numpy(shift).repeat_interleave(4)  # a bias for each of four pixels
    kept = head.out.bias.detach().clone()
    with torch.no_grad():
        head.out.bias += each.to(head.out.bias)
    after = validate(model) if validate else {}
    if after.get("log_loss", 0.0) > _CLEARLY * before.get("log_loss", np.inf):
        with torch.no_grad():
            head.out.bias.copy_(kept)
        return before
    return after


def shifts_for(logs: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """What is added to log probabilities ``(K, n)`` so that each class is likeliest on its share
    `areas` (K,) of the places; ``(K,)`` float32.

    One class after the other gets its share exactly, given the others', a few times.
    """
    shift = np.zeros(len(logs), np.float32)
    for _ in range(_ROUNDS):
        for c, share in enumerate(areas):
            moved = logs + shift[:, None]
            moved[c] = -np.inf
            shift[c] = np.quantile(moved.max(0) - logs[c], share)
    return np.asarray(shift - shift.mean())


def _areas(maps: Sequence[np.ndarray]) -> np.ndarray:
    """``(K,)`` share of the pixels of each class, by the likeliest class of maps ``(K, …)``."""
    total = np.sum([np.bincount(m.argmax(0).ravel(), minlength=len(m)) for m in maps], 0)
    return np.asarray(total / total.sum())


def _logs(probabilities: np.ndarray, least: float) -> np.ndarray:
    return np.asarray(np.log(np.maximum(probabilities, np.float32(least))))


def _some(maps: Sequence[np.ndarray], most: int, step: int = _STEP) -> np.ndarray:
    """``(K, n)``: places all over maps ``(K, Y, X)``, about `most`."""
    whole = np.concatenate([m[:, ::step, ::step].reshape(len(m), -1) for m in maps], 1)
    return whole[:, :: max(1, whole.shape[1] // max(1, most))].copy()


def _windows(shape: Sequence[int]) -> list[_Window]:
    """A plane in windows of about the same size."""
    rows, columns = (
        np.linspace(0, size, -(-size // WINDOW_PX) + 1).round().astype(int).tolist()
        for size in shape
    )
    return [(slice(*y), slice(*x)) for y in pairwise(rows) for x in pairwise(columns)]


def _cut(image: TrainingImage, window: _Window) -> TrainingImage:
    strokes = np.asarray(image.targets["semantic"])[window]
    return replace(image, pixels=image.pixels[:, *window], targets={"semantic": strokes})


def _said(runner: Runner, image: TrainingImage, setting: Setting) -> np.ndarray:
    """``(K, Y, X)`` float32 probabilities of a network."""
    pixels = image.pixels.astype(np.float32)
    shape = (pixels.shape[1], pixels.shape[2])
    scaled = resample(pixels, scaled_shape(shape, setting.plan.zoom_of(image)))
    runner.model.eval()
    with torch.no_grad():
        found = runner.dense_maps(scaled, ["semantic"])["semantic"]
    return np.asarray(resample(found, shape).clip(0, 1))


def guided(
    image: TrainingImage, probabilities: np.ndarray, rng: np.random.Generator
) -> TrainingImage:
    """The same plane with a dense truth: drawn from probabilities, and the strokes.

    On average, the loss of what is drawn is that of the probabilities themselves, and what is
    unsure stays so.

    Parameters
    ----------
    image : TrainingImage
        With strokes.
    probabilities : (K, Y, X) array
        Of the semantic classes, of any scale.
    """
    below = np.cumsum(probabilities, 0, dtype=np.float32)
    drawn = rng.random(below.shape[1:], np.float32) * below[-1]
    truth = (drawn >= below[:-1]).sum(0).astype(np.uint8)
    strokes = np.asarray(image.targets["semantic"])
    truth = np.where(strokes != IGNORE, strokes, truth)
    return replace(image, targets={"semantic": truth})
