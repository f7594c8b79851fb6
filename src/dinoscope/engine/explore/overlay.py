"""Tokens as colours over one plane, a stack, several images, or what lies under labels."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dinoscope.arrays.axes import Index
from dinoscope.arrays.guided import upsample_guided
from dinoscope.arrays.labels import validate_labels
from dinoscope.config import PcaOptions
from dinoscope.engine.explore.encode import TokenSet
from dinoscope.engine.pca import Basis, Moments, sample_bilinear
from dinoscope.errors import InputError
from dinoscope.types import ImageInput, Progress

#: Components that are kept of every fit, to choose from without fitting again.
KEPT_COMPONENTS = 16

#: A plane of one of several sets: the set's place among them, and the plane's index.
Place = tuple[int, Index]
#: Gives the ``(Y, X)`` mask of the pixels that count in a plane.
Foreground = Callable[[Place], np.ndarray]


@dataclass(frozen=True)
class ColouredPlane:
    """Colours of one plane: ``(h, w, 3)`` or ``(Y, X, 3)`` float32 in [0, 1]."""

    place: Place
    rgb: np.ndarray


def all_places(sets: Sequence[TokenSet]) -> list[Place]:
    """Every plane of every set, in order."""
    return [(n, index) for n, found in enumerate(sets) for index in found.indices]


def fit_bases(
    sets: Sequence[TokenSet],
    places: Sequence[Place] | None = None,
    *,
    foreground: Foreground | None = None,
    own: bool = False,
) -> Generator[Progress, None, tuple[Basis, ...]]:
    """Find the components, plane by plane.

    Parameters
    ----------
    sets : sequence of TokenSet
        With tokens of one length.
    places : sequence of (int, index), optional
        Planes to fit on; all of them when not given.
    foreground : callable, optional
        Each patch counts by the share of its pixels in this mask: the components are those of the
        masked pixels, each with the token of its patch.
    own : bool
        One basis for each set, with signs that agree with the first set's, instead of one for all;
        a set without a place among `places` is fitted on all of its planes.

    Returns
    -------
    tuple of Basis
        One for each set (the same one several times unless `own`).

    Raises
    ------
    InputError
        Tokens of different lengths, or nothing to fit on.
    """
    dims = {found.dim for found in sets}
    if len(dims) != 1:
        raise InputError(
            f"tokens have lengths {sorted(dims)}",
            expected="images encoded by one model with the same layers",
        )
    dim = dims.pop()
    chosen = all_places(sets) if places is None else list(places)
    if own:
        fitted_on = {place for place, _ in chosen}
        chosen += [p for p in all_places(sets) if p[0] not in fitted_on]
    moments = [Moments(dim) for _ in sets] if own else [Moments(dim)] * len(sets)
    for number, place in enumerate(chosen):
        found = sets[place[0]]
        weights = None
        if foreground is not None:
            weights = found.grid.shares(foreground(place)).ravel()
        moments[place[0]].add(found.tokens(place[1]), weights)
        yield Progress("fit", number + 1, len(chosen))
    if not own:
        return (moments[0].basis(KEPT_COMPONENTS),) * len(sets)
    first = moments[0].basis(KEPT_COMPONENTS)
    return (first, *(m.basis(KEPT_COMPONENTS).aligned(first) for m in moments[1:]))


def coloured(
    sets: Sequence[TokenSet],
    bases: Sequence[Basis],
    options: PcaOptions | None = None,
    *,
    places: Sequence[Place] | None = None,
    foreground: Foreground | None = None,
) -> Generator[Progress | ColouredPlane, None, None]:
    """Paint planes with their components.

    Parameters
    ----------
    sets, bases : sequences of equal length
        As :func:`fit_bases` takes and returns them.
    options : PcaOptions, optional
        Which components, their range, and the resolution.
    places : sequence of (int, index), optional
        Planes to paint; all of them when not given.
    foreground : callable, optional
        What lies outside of this mask is black.

    Raises
    ------
    InputError
        A component that the tokens do not have.
    """
    options = options or PcaOptions()
    chosen = all_places(sets) if places is None else list(places)
    for number, (place, index) in enumerate(chosen):
        found, basis = sets[place], bases[place]
        tokens = found.tokens(index)
        flat = basis.colours(tokens, options.components, options.low, options.high)
        maps = flat.T.reshape(len(options.components), *found.grid.grid)
        rgb = to_pixels(found, index, maps, options.upsample)
        rgb = np.ascontiguousarray(rgb.transpose(1, 2, 0))
        if foreground is not None:
            mask = foreground((place, index))
            if options.upsample == "patch":
                mask = found.grid.shares(mask) > 0
            rgb[~np.asarray(mask, bool)] = 0
        yield ColouredPlane((place, index), rgb)
        yield Progress("colours", number + 1, len(chosen))


def to_pixels(found: TokenSet, index: Index, maps: np.ndarray, upsample: str) -> np.ndarray:
    """Maps ``(K, h, w)`` of patches at the resolution that `upsample` asks for.

    ``patch``: as they are; ``linear``: ``(K, Y, X)`` interpolated between the centres of patches;
    ``image``: that, sharpened along the edges of the image.
    """
    if upsample == "patch":
        return np.asarray(maps, np.float32)
    rows, columns = found.grid.pixel_positions()
    smooth = sample_bilinear(np.asarray(maps, np.float32), rows, columns)
    if upsample == "linear":
        return smooth
    return upsample_guided(smooth, found.plane(index).guide, found.grid.step)


class LabelReader:
    """Labels of the planes of a set, read when they are needed.

    Parameters
    ----------
    labels : ImageInput
        A layer or file of the image's shape, or a single plane that stands for all of them.
    found : TokenSet
        The set whose planes it labels.

    Raises
    ------
    InputError
        Another shape, or no labels.
    """

    def __init__(self, labels: ImageInput, found: TokenSet) -> None:
        from dinoscope.arrays.axes import require_pixels

        require_pixels(labels)
        self._labels = labels
        self._found = found
        y0, x0 = found.grid.origin
        need = (y0 + found.grid.shape[0], x0 + found.grid.shape[1])
        have = (labels.size("Y"), labels.size("X"))
        self._region = (y0, x0, *need)
        self._whole = have == found.grid.shape and (y0, x0) == (0, 0)
        self._flat = labels.plane_axes != found.plane_axes
        deep = labels.plane_shape and not self._flat
        beyond = deep and any(
            i >= n
            for index in found.indices
            for i, n in zip(index, labels.plane_shape, strict=True)
        )
        too_small = have[0] < need[0] or have[1] < need[1]
        # Without a region the whole image was encoded: other sizes belong to another image.
        other = (y0, x0) == (0, 0) and not self._whole and found.whole
        if too_small or other or beyond or (self._flat and labels.plane_shape):
            raise InputError(
                f"{labels.name!r} has shape {labels.shape} ({labels.axes})",
                expected=f"the pixels and planes of {found.image!r} "
                f"({found.plane_axes}YX, {need[0]} x {need[1]})",
                hint="Labels must cover the same pixels as their image.",
            )

    def __call__(self, index: Index) -> np.ndarray:
        """Labels ``(Y, X)`` of the pixels that were encoded of one plane."""
        from dinoscope.arrays.axes import read_plane

        plane = read_plane(self._labels, () if self._flat else index, region=self._region)
        if len(plane) != 1:
            raise InputError(
                f"{self._labels.name!r} has {len(plane)} channels", expected="labels of one channel"
            )
        return validate_labels(plane[0], shape=self._found.grid.shape, name=self._labels.name)


def under_labels(
    readers: Mapping[int, LabelReader], chosen: Sequence[int] | None = None
) -> Foreground:
    """The pixels under labels as a mask for :func:`fit_bases`.

    Parameters
    ----------
    readers : mapping of int to LabelReader
        By place of the set; sets without labels have no foreground.
    chosen : sequence of int, optional
        Labels that count; all above 0 when not given.
    """

    def mask(place: Place) -> np.ndarray:
        if place[0] not in readers:
            raise InputError(
                f"image {place[0] + 1} has no labels", expected="labels for every image in the fit"
            )
        labels = readers[place[0]](place[1])
        return labels > 0 if chosen is None else np.isin(labels, list(chosen))

    return mask
