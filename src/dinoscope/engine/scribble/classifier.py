"""From strokes to calibrated class probabilities: forest, discriminant, held-out accuracy,
temperature.

Pixels of one stroke resemble each other, so what is held out is whole strokes: smaller forests,
each grown without a quarter of them, tell how good, and how sure, the forest is where nobody has
painted. Labels do not depend on that, so they need not wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dinoscope.engine.scribble.calibration import ece, fit_temperature, sharpen
from dinoscope.engine.scribble.experts import Expert, Linear, Network, fit_linear, join
from dinoscope.engine.scribble.forest import DEPTH, PIXELS, TREES, TRIES, Forest, fill, grow

#: Strokes are parted into so many groups.
FOLDS = 4
#: Held-out pixels from which the temperature is found.
_CHECKED = 6000
#: A class's area in the image is taken for no smaller share than this.
_RAREST = 1e-3
#: Fewer held-out strokes than this say nothing.
LEAST_STROKES = 6
#: From so many annotated pixels on, there is enough to grow deeper trees from more of them.
MANY = 2000
_DEEP = {"depth": 10, "tries": 8, "pixels": 800}
_SHALLOW = {"depth": DEPTH, "tries": TRIES, "pixels": PIXELS}


@dataclass(frozen=True)
class Samples:
    """Annotated pixels: `values` (n, K) uint8, and `codes` (n,) uint8 as painted.

    `seen` (m, K) uint8 are pixels from all over the annotated planes, painted or not; they tell how
    frequent the classes are. `plain` are the columns of smoothed intensities; `said`
    is how many of the last columns are what the model's own semantic head says of each class, in
    the order of their codes from 1 on. No forest learns from these: on strokes that trained the
    head they are surer than anywhere else.
    """

    values: np.ndarray
    codes: np.ndarray
    seen: np.ndarray | None = None
    plain: tuple[int, ...] = ()
    said: int = 0

    @property
    def learned(self) -> np.ndarray:
        """The values that forests learn from."""
        return self.values[:, : self.values.shape[1] - self.said]


@dataclass(frozen=True)
class Classifier:
    """A fitted fast loop.

    `codes` (C,) uint8 are the scribble codes of the classes; `temperature` makes probabilities
    honest; `ece` and `accuracy` are measured on strokes that were held out, ``None`` where there
    are too few; `frequency` (C,) is how much a pixel of each class counted, ``None`` for alike.
    `linear` joins the forest where smoothed intensities tell the classes apart, `network` where the
    model has a semantic head of these classes.
    """

    codes: np.ndarray
    forest: Forest
    temperature: float = 1.0
    ece: float | None = None
    accuracy: float | None = None
    frequency: np.ndarray | None = None
    linear: Linear | None = None
    network: Network | None = None

    @property
    def experts(self) -> tuple[Expert, ...]:
        """What joins the forest."""
        return tuple(e for e in (self.linear, self.network) if e is not None)

    def probabilities(self, values: np.ndarray) -> np.ndarray:
        """``(n, K)`` uint8 to calibrated ``(n, C)`` float32."""
        found = self.forest.probabilities(values)
        if self.experts:
            found = join(self.experts, found.T, values.T).T
        return sharpen(found, self.temperature)


def fit(samples: Samples, *, trees: int = TREES, seed: int = 0) -> Classifier:
    """Learn from annotated pixels; see :func:`calibrated` for what is not known then.

    Parameters
    ----------
    samples : Samples
        At least one pixel; one class is enough, everything is that class then.
    trees : int
        Size of the forest.
    seed : int
        Of everything random.
    """
    codes, classes, weight = _classes(samples)
    size = _size(len(classes))
    forest = grow(
        samples.learned, classes, len(codes), weights=weight, trees=trees, seed=seed, **size
    )
    frequency = None
    if samples.seen is not None and len(codes) > 1:
        frequency = _frequency(forest, samples.seen, weight, classes)
        forest = fill(forest, samples.values, classes, weight * frequency[classes], len(codes))
    linear = _linear(samples, classes, len(codes), frequency)
    return Classifier(
        codes, forest, frequency=frequency, linear=linear, network=_network(samples, codes)
    )


def _network(samples: Samples, codes: np.ndarray) -> Network | None:
    """The model's semantic head as an expert, where it knows all of these classes."""
    if not samples.said or len(codes) < 2 or int(codes.max()) > samples.said:
        return None
    first = samples.values.shape[1] - samples.said
    return Network(first + codes.astype(np.int64) - 1)


def _linear(
    samples: Samples,
    classes: np.ndarray,
    count: int,
    frequency: np.ndarray | None,
    inside: np.ndarray | slice = slice(None),
) -> Linear | None:
    """The discriminant of some of the samples, with classes as frequent as is known."""
    columns = np.array(samples.plain, np.int64)
    found = fit_linear(samples.values[inside], classes[inside], count, columns)
    return found.weighted(frequency) if found is not None and frequency is not None else found


def _frequency(
    forest: Forest, seen: np.ndarray, weight: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """How much a pixel of each class counts, ``(C,)``, for the class's area in the image.

    Strokes are of like length for classes of unlike area. What the forest says on pixels from all
    over estimates the areas: the first step of Saerens, Latinne & Decaestecker (2002), Neural
    Computation 14:21. Further steps would let classes vanish that few strokes taught poorly.
    """
    found = forest.probabilities(seen).mean(0, dtype=np.float64)
    painted = np.bincount(classes, weight)
    ratio = np.maximum(found, _RAREST) / (painted / painted.sum())
    return np.asarray(ratio / ratio.max(), np.float32)


def calibrated(
    classifier: Classifier,
    samples: Samples,
    strokes: np.ndarray,
    *,
    trees: int = TREES // FOLDS,
    seed: int = 0,
) -> Classifier:
    """The same forest with a temperature, calibration error and accuracy from held-out strokes.

    Parameters
    ----------
    classifier : Classifier
        Of these samples.
    samples : Samples
        What it was fitted on.
    strokes : (n,) integer array
        The number of the stroke that each pixel belongs to. Where they are too few to hold some
        out, nothing is known: the temperature is 1.
    trees : int
        Size of each fold's forest.
    seed : int
        Of everything random.
    """
    codes, classes, weight = _classes(samples)
    if classifier.frequency is not None:
        weight *= classifier.frequency[classes]
    folds = _folds(strokes, classes, len(codes))
    if folds is None or len(codes) < 2:
        return replace(classifier, temperature=1.0, ece=None, accuracy=None)
    size = _size(len(classes))
    held: list[np.ndarray] = []
    truth: list[np.ndarray] = []
    for fold in range(FOLDS):
        inside = folds != fold
        part = grow(
            samples.learned[inside],
            classes[inside],
            len(codes),
            weights=weight[inside],
            trees=trees,
            seed=seed + fold,
            **size,
        )
        outside = np.flatnonzero(~inside)
        some = outside[:: max(1, len(outside) * FOLDS // _CHECKED)]
        said = part.probabilities(samples.values[some])
        linear = _linear(samples, classes, len(codes), classifier.frequency, inside)
        if linear is not None:
            said = join([linear], said.T, samples.values[some].T).T
        held.append(said)
        truth.append(classes[some])
    probabilities, known = np.concatenate(held), np.concatenate(truth)
    temperature = fit_temperature(probabilities, known)
    error = ece(sharpen(probabilities, temperature), known)
    accuracy = float((probabilities.argmax(1) == known).mean())
    return replace(classifier, temperature=temperature, ece=error, accuracy=accuracy)


def _size(pixels: int) -> dict[str, int]:
    return _DEEP if pixels >= MANY else _SHALLOW


def _classes(samples: Samples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, the class of each pixel and how much it counts."""
    codes, classes = np.unique(samples.codes, return_inverse=True)
    # Between "each pixel counts alike" and "each class counts alike".
    weights = (len(classes) / np.bincount(classes)) ** 0.5
    return codes, classes, weights[classes].astype(np.float32)


def _folds(strokes: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray | None:
    """The group, 0 to FOLDS - 1, of every pixel; ``None`` where strokes are too few to part.

    Strokes of each class are dealt out in turn, so that each group has some of each class; every
    class must have two strokes or more, else a group would take all of it.
    """
    numbers, first, place = np.unique(strokes, return_index=True, return_inverse=True)
    owner = classes[first]
    each = np.bincount(owner, minlength=count)
    if len(numbers) < LEAST_STROKES or each.min() < 2:
        return None
    group = np.empty(len(numbers), np.int64)
    shift = 0
    for c in range(count):
        mine = np.flatnonzero(owner == c)
        group[mine] = (np.arange(len(mine)) + shift) % FOLDS
        shift += len(mine)
    return np.asarray(group[place])


def stroke_numbers(pixels: np.ndarray, codes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Number of the stroke, from 0, of annotated pixels ``(n,)`` of one plane.

    Pixels of one code that touch are one stroke.
    """
    from skimage.measure import label

    if len(pixels) == 0:
        return np.zeros(0, np.int64)
    rows, columns = np.divmod(pixels, shape[1])
    top, left = int(rows.min()), int(columns.min())
    painted = np.zeros((int(rows.max()) - top + 1, int(columns.max()) - left + 1), np.uint8)
    painted[rows - top, columns - left] = codes
    numbers = label(painted, connectivity=2)
    return np.asarray(numbers[rows - top, columns - left], np.int64) - 1
