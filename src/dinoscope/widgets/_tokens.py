"""Encoded images, as the window knows them: which sets of tokens the worker holds, and where."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from dinoscope.arrays.patches import PatchGrid
from dinoscope.config import ExploreOptions
from dinoscope.errors import DinoscopeError, InputError
from dinoscope.types import ImageInput
from dinoscope.widgets._chain import Ask
from dinoscope.widgets._layers import Source, full_size, make_source

T = TypeVar("T")
Asking = Generator[Ask, Mapping[str, Any], T]

#: What the worker says of a set or points that an earlier worker had.
_STALE = "not known"
#: Encoding so few planes again costs little, and sees pixels that were changed in place.
_FEW_PLANES = 4


@dataclass(frozen=True)
class TokenSet:
    """Tokens of one image by one model, with or without its adapter."""

    id: str
    source: Source
    adapter: bool
    tuned: bool
    indices: tuple[tuple[int, ...], ...]
    grid: PatchGrid
    dim: int
    single: bool

    @property
    def plane(self) -> tuple[int, ...] | None:
        """The only plane that was encoded; ``None`` when all were."""
        return self.indices[0] if self.single else None

    @property
    def variant(self) -> str:
        """``"LoRA-tuned"``, ``"original"``, or nothing where a model has no adapter."""
        if not self.tuned:
            return ""
        return "LoRA-tuned" if self.adapter else "original"


@dataclass(frozen=True)
class TokenRequest:
    """What is to be encoded, and how.

    `planes` has one index for each source (``None``: all planes).
    """

    sources: tuple[Source, ...]
    model: str
    label: str
    options: ExploreOptions
    adapter: str = "on"
    planes: tuple[tuple[int, ...], ...] | None = None
    download: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """What the images are called in a job."""
        return tuple(f"image{i}" if i else "image" for i in range(len(self.sources)))

    @property
    def images(self) -> dict[str, ImageInput]:
        """The images by those names."""
        return {n: s.image for n, s in zip(self.names, self.sources, strict=True)}

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for requests that give the same sets."""
        layers = tuple(
            (str(layer.unique_id), id(full_size(layer)), source.layer_axes)
            for source in self.sources
            for layer in source.layers
        )
        return (self.model, self.options, self.adapter, self.planes, layers)

    @property
    def plane_count(self) -> int:
        if self.planes is not None:
            return len(self.planes)
        return sum(math.prod(source.image.plane_shape) for source in self.sources)


class Encoder:
    """Remembers the sets of the newest request, and asks for others.

    Parameters
    ----------
    in_use : callable
        Ids of sets that a plot or a search still needs; others are let go with the next request.
    """

    def __init__(self, in_use: Callable[[], set[str]] = set) -> None:
        self._in_use = in_use
        self._held: set[str] = set()
        self._key: tuple[Any, ...] = ()
        self.sets: tuple[TokenSet, ...] = ()
        self.notes: tuple[str, ...] = ()

    def forget(self) -> None:
        """The worker that held the sets has ended."""
        self._key, self.sets, self._held = (), (), set()

    def get(self, request: TokenRequest) -> Asking[tuple[TokenSet, ...]]:
        """The sets of `request`, encoded where they are not at hand.

        Raises
        ------
        DinoscopeError
            What the worker says.
        """
        if request.key == self._key and request.plane_count > _FEW_PLANES:
            return self.sets
        payload: dict[str, Any] = {
            "model": request.model,
            "options": request.options,
            "adapter": request.adapter,
            "allow_download": request.download,
        }
        if request.planes is not None:
            planes = zip(request.names, request.planes, strict=True)
            payload["planes"] = {name: [index] for name, index in planes}
        self._key, self.sets = (), ()
        data = yield Ask("tokens", payload, request.images)
        by_name = dict(zip(request.names, request.sources, strict=True))
        self.sets = tuple(
            _token_set(info, by_name[info["image"]], single=request.planes is not None)
            for info in data["sets"]
        )
        self.notes = tuple(data.get("notes", ()))
        self._key = request.key
        gone = self._held - self._in_use()
        self._held = (self._held - gone) | {one.id for one in self.sets}
        if gone:
            yield Ask("explore_forget", {"sets": sorted(gone)})
        return self.sets


def encoded(
    encoder: Encoder, request: TokenRequest, use: Any
) -> Generator[Ask, Mapping[str, Any], T]:
    """Encode, then go on with ``use(sets)``; once more where the worker was a new one.

    Raises
    ------
    DinoscopeError
        What the worker says.
    """
    sets = yield from encoder.get(request)
    try:
        first: T = yield from use(sets)
    except DinoscopeError as error:
        if not is_stale(error):
            raise
    else:
        return first
    encoder.forget()
    sets = yield from encoder.get(request)
    second: T = yield from use(sets)
    return second


def is_stale(error: DinoscopeError) -> bool:
    """Whether the worker was asked for something that an earlier one had."""
    return _STALE in str(error)


def _token_set(info: Mapping[str, Any], source: Source, *, single: bool) -> TokenSet:
    return TokenSet(
        id=str(info["set"]),
        source=source,
        adapter=bool(info["adapter"]),
        tuned=bool(info.get("tuned", False)),
        indices=tuple(tuple(int(i) for i in index) for index in info["indices"]),
        grid=PatchGrid(**{k: tuple(v) for k, v in info["grid"].items()}),
        dim=int(info["dim"]),
        single=single,
    )


def label_image(layer: Any, source: Source) -> ImageInput:
    """A Labels layer as the labels of an image.

    Raises
    ------
    InputError
        It has other rows, columns or planes than the image, and not one plane for all.
    """
    image = source.image
    shape = tuple(full_size(layer).shape)
    spatial = "".join(a for a in source.layer_axes if a != "C")
    axes = spatial if len(shape) == len(spatial) else spatial[-2:]
    try:
        labels = make_source([layer], axes=axes).image
    except DinoscopeError as error:
        raise _misfit(layer, source) from error
    fits = labels.size("Y") == image.size("Y") and labels.size("X") == image.size("X")
    planes = {a: labels.size(a) for a in labels.plane_axes}
    fits = fits and all(image.size(a) == n for a, n in planes.items())
    if not fits:
        raise _misfit(layer, source)
    return dataclasses.replace(labels, name=layer.name)


def fitting_labels(layers: Sequence[Any], source: Source) -> list[Any]:
    """The Labels layers among `layers` that belong to `source` by their shape."""
    found = []
    for layer in layers:
        if layer._type_string != "labels":
            continue
        try:
            label_image(layer, source)
        except DinoscopeError:
            continue
        found.append(layer)
    return found


def _misfit(layer: Any, source: Source) -> InputError:
    return InputError(
        f"{layer.name!r} has shape {tuple(full_size(layer).shape)}",
        expected=f"the rows, columns and planes of {source.layer.name!r}: "
        f"{tuple(full_size(source.layer).shape)[: source.layer.ndim]}",
        hint="Choose a Labels layer that was made on this image.",
    )
