"""A session of annotating: strokes on planes of any images, one classifier for all of them."""

from __future__ import annotations

import dataclasses
import time
from collections import OrderedDict
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import numpy as np

from dinoscope.arrays.axes import Index, Region, read_plane
from dinoscope.arrays.filters import FilterBank
from dinoscope.arrays.normalize import to_model_input
from dinoscope.arrays.patches import PatchGrid
from dinoscope.config import AnnotateOptions
from dinoscope.engine.explore.encode import ImageRun, open_image
from dinoscope.engine.explore.store import EncodedPlane, TokenStore
from dinoscope.engine.scale import Prepared
from dinoscope.engine.scribble.classifier import (
    Classifier,
    Samples,
    calibrated,
    fit,
    stroke_numbers,
)
from dinoscope.engine.scribble.features import (
    COMPONENTS,
    HeadMaps,
    PlaneFeatures,
    Projection,
    filter_maps,
    plain_columns,
    plane_features,
)
from dinoscope.engine.scribble.forest import TREES
from dinoscope.engine.scribble.geometry import affordable, clipped, rough_zoom
from dinoscope.engine.scribble.predicting import Prediction, Tables, predict
from dinoscope.errors import InputError
from dinoscope.models.model import Model
from dinoscope.types import ImageInput, Progress

#: A plane of one image: the image's id as the caller chose it, and the plane's index.
Place = tuple[str, Index]

#: Maps of planes in memory, in MB; those of the newest plane are kept whatever their size.
FEATURES_MB = 120
#: Pixels of a plane, or of several together, that tell how frequent the classes are.
_SEEN = 800


@dataclass
class _Strokes:
    """Annotated pixels of a plane; once it was looked at, also their features, those of pixels from
    all over it, and its shape."""

    pixels: np.ndarray
    codes: np.ndarray
    values: np.ndarray | None = None
    seen: np.ndarray | None = None
    shape: tuple[int, int] = (0, 0)


@dataclass
class ScribbleSession:
    """Strokes, cached features and the classifier.

    Parameters
    ----------
    model : Model
        Whose tokens are used; without its heads it serves as well.
    options : AnnotateOptions
        Which tokens, at which scale, with which filters.
    store : TokenStore
        Where tokens are kept.
    threads : int
        Threads for predictions.
    classes : sequence of str
        Names of the classes by their codes, from 1 = background on. Where the model has a semantic
        head of exactly these, as after *Improve*, it joins the classifier.

    Notes
    -----
    Objects in one image look to the model as in the other when both are brought to the same scale;
    the zoom of the first image is kept for all (`options.zoom` sets it, else it is decided as in a
    prediction).
    """

    model: Model
    options: AnnotateOptions
    store: TokenStore
    threads: int = 1
    classes: Sequence[str] = ()
    projection: Projection | None = None
    classifier: Classifier | None = None
    zoom: float | None = None
    notes: list[str] = field(default_factory=list)
    _runs: dict[str, ImageRun] = field(default_factory=dict)
    _features: OrderedDict[Place, PlaneFeatures] = field(default_factory=OrderedDict)
    _tokens: dict[Place, str] = field(default_factory=dict)
    _strokes: dict[Place, _Strokes] = field(default_factory=dict)
    _changed: bool = False
    _trees: int = TREES
    _tables: Tables | None = None
    _uncalibrated: Samples | None = None
    #: Columns of the features that are smoothed intensities, and how many are the head's classes.
    _plain: tuple[int, ...] = ()
    _said: int = 0
    #: Filters of the plane whose first labels were asked for last, until its tokens are there.
    _filters: tuple[Place, np.ndarray] | None = None

    def __post_init__(self) -> None:
        self.bank = FilterBank() if self.options.filters else None
        self.zoom = self.zoom or self.options.zoom

    # -- features -------------------------------------------------------------------------------

    def is_prepared(self, source: str, index: Index) -> bool:
        """Whether a plane can be predicted without its pixels."""
        return (source, index) in self._features

    def features(
        self, source: str, index: Index, image: ImageInput | None
    ) -> Generator[Progress, None, PlaneFeatures]:
        """The maps of a plane, computed where they are not kept.

        Raises
        ------
        InputError
            They are not kept and no image was given; or the image cannot be encoded.
        """
        place = (source, index)
        if place in self._features:
            self._features.move_to_end(place)
            return self._features[place]
        if image is None:
            raise InputError(
                f"plane {index} of {source!r} is not prepared",
                expected="its image",
                hint="Show the plane again.",
            )
        run = yield from self.opened(source, image)
        pixels = run.pixels(index)
        tokens = yield from self._encoded(run, pixels, place)
        if self.projection is None:
            self.projection = Projection.fit(tokens.tokens)
        maps = self._filtered(run, place)
        self._filters = None
        found = _joined(run, tokens, self.projection, maps)
        self._keep(place, found)
        return found

    @property
    def knows_classes(self) -> bool:
        """Whether the model has a semantic head of these very classes."""
        own = self.model.card.heads.get("semantic")
        return own is not None and len(self.classes) > 1 and own.classes == tuple(self.classes)

    def _filtered(self, run: ImageRun, place: Place) -> np.ndarray:
        if self._filters is None or self._filters[0] != place:
            channels = _channels(run.prepared, place[1])
            self._plain = plain_columns(self.bank, len(channels))
            room = COMPONENTS + run.map_count
            self._filters = place, filter_maps(channels, self.bank, room, self.threads)
        return self._filters[1]

    def rough(
        self,
        source: str,
        index: Index,
        image: ImageInput | None,
        region: Region | None = None,
        want: Sequence[str] = ("labels",),
    ) -> Generator[Progress, None, Prediction | None]:
        """First labels of a plane from its own strokes, before its tokens are computed.

        Filters are those of the plane; tokens come from a small copy of it, in a fraction of the
        time. ``None`` where that would not be sooner, or where the classifier already knows better:
        the plane's tokens are kept, it is small, or there are strokes on other planes.
        """
        place = (source, index)
        strokes = self._strokes.get(place)
        if place in self._features or image is None or strokes is None or len(self._strokes) > 1:
            return None
        run = yield from self.opened(source, image)
        small = run.at(rough_zoom(run.zoom, run.prepared.shape))
        if small.zoom >= run.zoom or run.key(run.pixels(index)) in self.store:
            return None
        tokens = yield from _encoded_once(small, small.pixels(index))
        maps = self._filtered(run, place)
        found = _joined(small, tokens, Projection.fit(tokens.tokens), maps)
        seen = found.some(_SEEN)
        samples = Samples(found.at(strokes.pixels), strokes.codes, seen, self._plain, found.said)
        classifier = fit(samples, seed=self.options.seed)
        region = region and clipped(region, found.shape)
        return predict(classifier, found, region, want=want)

    def opened(self, source: str, image: ImageInput) -> Generator[Progress, None, ImageRun]:
        """The geometry and limits that the planes of an image share."""
        run = self._runs.get(source)
        if run is None or _layout(run.prepared.image) != _layout(image):
            heads = ("instance", *(["semantic"] if self.knows_classes else []))
            run = yield from open_image(
                image, self.model, self.options, self.zoom, self.store, heads=heads
            )
            if self.zoom is None:
                self.zoom = affordable(run.zoom, run.prepared.shape)
                run = run.at(self.zoom) if self.zoom != run.zoom else run
            self.notes += [note for note in run.notes if note not in self.notes]
            self.forget(source)
            self._runs[source] = run
        else:
            # Limits and scale stay; pixels come from whoever asks now.
            run.prepared = dataclasses.replace(run.prepared, image=image)
        return run

    def _encoded(
        self, run: ImageRun, pixels: np.ndarray, place: Place
    ) -> Generator[Progress, None, EncodedPlane]:
        key = run.key(pixels)
        self._tokens[place] = key
        try:
            return self.store.get(key)
        except KeyError:
            pass
        plane = yield from _encoded_once(run, pixels)
        self.store.put(key, plane)
        return plane

    def _keep(self, place: Place, found: PlaneFeatures) -> None:
        self._features[place] = found
        strokes = self._strokes.get(place)
        if strokes is not None:
            self._sample(strokes, found)
        used = sum(each.nbytes for each in self._features.values())
        while used > FEATURES_MB * 1e6 and len(self._features) > 1:
            _, oldest = self._features.popitem(last=False)
            used -= oldest.nbytes

    def forget(self, source: str) -> None:
        """Let everything of an image go but its strokes: its pixels have changed."""
        self._runs.pop(source, None)
        if self._filters is not None and self._filters[0][0] == source:
            self._filters = None
        for place in [p for p in self._features if p[0] == source]:
            del self._features[place]
            self._tokens.pop(place, None)
        for place, strokes in self._strokes.items():
            if place[0] == source:
                strokes.values = None
                self._changed = True

    def grid(self, source: str) -> PatchGrid:
        """Where the patches of a prepared image lie."""
        return self._runs[source].patches

    def tokens(self, source: str, index: Index) -> np.ndarray:
        """``(h·w, D)`` float16 tokens of a prepared plane.

        Raises
        ------
        InputError
            They are not kept any more.
        """
        try:
            return self.store.get(self._tokens[source, index]).tokens
        except KeyError:
            raise InputError(
                f"the tokens of plane {index} of {source!r} are not kept any more",
                hint="Show the plane again.",
            ) from None

    def channels(self, source: str, index: Index, image: ImageInput | None) -> np.ndarray:
        """``(C, Y, X)`` float32 of a plane of a prepared image, each channel by its own limits.

        Raises
        ------
        InputError
            No image was given.
        """
        if image is None:
            raise InputError(f"no image of {source!r} was given", expected="the image")
        return _channels(dataclasses.replace(self._runs[source].prepared, image=image), index)

    # -- strokes --------------------------------------------------------------------------------

    def set_strokes(self, source: str, index: Index, pixels: np.ndarray, codes: np.ndarray) -> int:
        """Replace all that is annotated on a plane; returns how many pixels that is.

        Parameters
        ----------
        pixels : (n,) integer array
            Flat indices into the plane.
        codes : (n,) integer array
            Scribble codes, 1 = background, 2… = classes; 0 is left out.

        Raises
        ------
        InputError
            Arrays that do not fit together, codes beyond 255, pixels beyond the plane.
        """
        pixels = np.asarray(pixels)
        codes = np.asarray(codes)
        if pixels.ndim != 1 or pixels.shape != codes.shape:
            raise InputError(
                f"strokes have {pixels.shape} pixels and {codes.shape} codes",
                expected="two lists of equal length",
            )
        if pixels.size and (pixels.dtype.kind not in "iu" or codes.dtype.kind not in "iu"):
            raise InputError(
                f"strokes are of {pixels.dtype} and {codes.dtype}", expected="integers"
            )
        if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) <= 255:
            raise InputError(
                f"strokes hold codes {int(codes.min())} to {int(codes.max())}", expected="0 to 255"
            )
        place = (source, index)
        run = self._runs.get(source)
        known = self._features.get(place)
        shape = known.shape if known else run.prepared.shape if run else None
        size = shape[0] * shape[1] if shape else None
        if pixels.size and (int(pixels.min()) < 0 or (size and int(pixels.max()) >= size)):
            raise InputError(
                f"strokes hold pixels {int(pixels.min())} to {int(pixels.max())}",
                expected=f"0 to {size - 1}" if size else "0 or more",
                hint="Is this the layer of another image?",
            )
        some = codes > 0
        pixels = np.asarray(pixels[some], np.int64)
        codes = np.asarray(codes[some], np.uint8)
        before = self._strokes.get(place)
        if before is not None and np.array_equal(before.pixels, pixels):
            if np.array_equal(before.codes, codes):
                return len(pixels)
        elif before is None and not len(pixels):
            return 0
        self._changed = True
        if not len(pixels):
            del self._strokes[place]
            return 0
        strokes = _Strokes(pixels, codes)
        if place in self._features:
            self._sample(strokes, self._features[place])
        self._strokes[place] = strokes
        return len(pixels)

    def _sample(self, strokes: _Strokes, features: PlaneFeatures) -> None:
        size = features.shape[0] * features.shape[1]
        if len(strokes.pixels) and int(strokes.pixels.max()) >= size:
            raise InputError(
                f"strokes reach pixel {int(strokes.pixels.max())}",
                expected=f"0 to {size - 1}",
                hint="Is this the layer of another image?",
            )
        strokes.values = features.at(strokes.pixels)
        strokes.seen = features.some(_SEEN)
        self._said = features.said
        strokes.shape = features.shape
        self._changed = True

    def annotated(self, source: str, index: Index) -> np.ndarray:
        """``(n,)`` flat indices of the pixels that are annotated on a plane."""
        strokes = self._strokes.get((source, index))
        return strokes.pixels if strokes is not None else np.zeros(0, np.int64)

    def unread(self) -> list[Place]:
        """Annotated planes whose pixels were never seen, which nothing was learned from."""
        return [place for place, strokes in self._strokes.items() if strokes.values is None]

    # -- classifier -----------------------------------------------------------------------------

    def fit(self, *, calibrate: bool = True, trees: int = TREES) -> Classifier | None:
        """The classifier of the strokes as they are now; ``None`` where there are none.

        Without `calibrate` the same labels are there sooner; held-out strokes are asked in the next
        call, so until then probabilities are as the last strokes had them. With fewer `trees` other
        labels are, about right: the next call with more grows the forest anew.
        """
        if self._changed or self._trees < trees:
            self._learn(trees)
        if calibrate and self._uncalibrated is not None and self.classifier is not None:
            samples, self._uncalibrated = self._uncalibrated, None
            self.classifier = calibrated(
                self.classifier, samples, self._stroke_numbers(), seed=self.options.seed
            )
        return self.classifier

    def _known(self) -> list[_Strokes]:
        return [s for s in self._strokes.values() if s.values is not None]

    def _stroke_numbers(self) -> np.ndarray:
        """``(n,)``: to which stroke, of any plane, each pixel belongs that was learned from."""
        numbers, shift = [], 0
        for each in self._known():
            own = stroke_numbers(each.pixels, each.codes, each.shape)
            numbers.append(own + shift)
            shift += int(own.max(initial=-1)) + 1
        return np.concatenate(numbers)

    def _learn(self, trees: int) -> None:
        known = self._known()
        self._tables = self._uncalibrated = None
        self._changed, self._trees = False, trees
        if not known:
            self.classifier = None
            return
        samples = self._uncalibrated = Samples(
            _stacked([s.values for s in known if s.values is not None]),
            np.concatenate([s.codes for s in known]),
            np.concatenate([s.seen[:: len(known)] for s in known if s.seen is not None]),
            self._plain,
            self._said,
        )
        before = self.classifier.temperature if self.classifier is not None else 1.0
        self.classifier = dataclasses.replace(
            fit(samples, trees=trees, seed=self.options.seed), temperature=before
        )

    def predict(
        self,
        source: str,
        index: Index,
        features: PlaneFeatures,
        region: Region | None = None,
        want: Sequence[str] = ("labels",),
    ) -> Prediction:
        """Classes of a region of a plane, by the classifier as it was fitted last.

        Without any strokes nothing is known: labels are 0.
        """
        if region is not None:
            region = clipped(region, features.shape)
        if self.classifier is None:
            y0, x0, y1, x1 = region or (0, 0, *features.shape)
            nothing = np.zeros((y1 - y0, x1 - x0), np.uint8)
            return Prediction(nothing, np.full_like(nothing, 255))
        wanted = self.classifier.forest.features
        if int(wanted.max(initial=0)) >= len(features.maps):
            raise InputError(
                f"{source!r} has {len(features.maps)} features",
                expected=f"at least {int(wanted.max()) + 1}, as where the classes were learned",
                hint="Images with different channels cannot share a classifier.",
            )
        if self._tables is None:
            self._tables = Tables(self.classifier.forest)
        return predict(
            self.classifier,
            features,
            region,
            want=want,
            tables=self._tables,
        )


def _encoded_once(run: ImageRun, pixels: np.ndarray) -> Generator[Progress, None, EncodedPlane]:
    for step in run.encode(pixels, 0, 1, time.perf_counter()):
        if not isinstance(step, Progress):
            return step
        yield step
    raise AssertionError("a plane was encoded without a result")


def _joined(
    run: ImageRun, plane: EncodedPlane, projection: Projection, maps: np.ndarray
) -> PlaneFeatures:
    """Filters with what was encoded of a plane, or of a small copy of it."""
    heads = None
    if run.heads:
        stack = plane.guide.reshape(run.map_count, -1, plane.guide.shape[1])
        heads = HeadMaps(stack, run.map_positions())
    found = plane_features(run.prepared.shape, plane.tokens, run.patches, projection, maps, heads)
    return dataclasses.replace(found, said=run.heads.get("semantic", 0))


def _layout(image: ImageInput) -> tuple[int, ...]:
    """What must stay the same for tokens of an image's planes to be of use."""
    return tuple(image.size(axis) for axis in "CSYX")


def _channels(prepared: Prepared, index: Index) -> np.ndarray:
    """``(C, Y, X)`` float32: every channel of a plane by its own limits."""
    plane = read_plane(prepared.image, index, channels=prepared.options.channels)
    normalization = prepared.normalization
    found = [
        to_model_input(plane[c : c + 1], prepared.limits[c : c + 1], normalization)[0]
        for c in range(len(plane))
    ]
    return np.stack(found)


def _stacked(values: Sequence[np.ndarray]) -> np.ndarray:
    counts = {v.shape[1] for v in values}
    if len(counts) > 1:
        raise InputError(
            f"annotated images have {sorted(counts)} features",
            expected="images with the same number of channels",
            hint="Annotate images with different channels in separate sessions.",
        )
    return np.concatenate(values)
