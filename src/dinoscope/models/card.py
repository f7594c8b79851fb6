"""The model card: everything about a model that is not a tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dinoscope import __version__
from dinoscope.errors import ModelFileError

#: Sides of a backbone's tiles where no training of ours chose others. DINOv2 learnt on crops of 224
#: px and at last on 518 (Oquab et al. 2023, arXiv:2304.07193): sizes between are familiar to it. At
#: 266 px a token still sees further than in most of that training; below, overlaps take up what
#: attention saves.
TILE = (266, 560)

HEAD_KINDS = ("dense", "bins", "pooled", "pooled-detail")
HEAD_VIEWS = ("scale", "whole")


@dataclass(frozen=True)
class HeadSpec:
    """One head, described without knowing the task it serves.

    Parameters
    ----------
    kind : {"dense", "bins", "pooled", "pooled-detail"}
        ``dense``: `channels` maps at full resolution. ``bins``: one map as the expectation over
        `channels` bins between `low` and `high`. ``pooled``: `channels` logits for each image or
        object, from tokens. ``pooled-detail``: the same from tokens and a convolutional branch.
    channels : int
        Number of output maps, bins or logits.
    classes : tuple[str, ...]
        Names of the classes, background first for dense heads; empty where there are none.
    unit : str
        Unit of a regressed value: ``"µm"`` or ``"relative"``.
    low, high : float
        Range of the bins, in `unit`.
    view : {"scale", "whole"}
        What the head is shown: tiles of an image at the scale of its objects, or all of a plane in
        one tile (relative heights).
    """

    kind: str
    channels: int
    classes: tuple[str, ...] = ()
    unit: str = ""
    low: float = 0.0
    high: float = 1.0
    view: str = "scale"

    def __post_init__(self) -> None:
        if self.kind not in HEAD_KINDS:
            raise ModelFileError(f"head kind is {self.kind!r}", expected=" or ".join(HEAD_KINDS))
        if self.channels < 1:
            raise ModelFileError(f"head has {self.channels} channels", expected="at least 1")
        if self.view not in HEAD_VIEWS:
            raise ModelFileError(f"head view is {self.view!r}", expected=" or ".join(HEAD_VIEWS))

    def fits(self, other: HeadSpec | None) -> bool:
        """Whether `other` may have the same weights: both say the same, whatever they are shown."""
        return other is not None and dataclasses.replace(self, view=other.view) == other

    @property
    def pooled(self) -> bool:
        """Whether it gives one answer for an image or object, not a map."""
        return self.kind.startswith("pooled")


@dataclass(frozen=True)
class ModelCard:
    """What a model is, how its input is prepared, and how good it was measured to be.

    `diameter_px` is the typical object diameter, in model pixels, that the dense heads were
    trained at; images are resampled so that their objects have it. ``None``: images are resampled
    by `zoom` alone (classes that live on absolute size). `normalization` is the JSON form of
    :class:`dinoscope.arrays.normalize.Normalization`. `tile` is the range of tile sides in model
    pixels; see `TILE`. `object_px` is the typical diameter, in image pixels, of the objects whose
    classes were learned. `fine_channels` is how many the decoder unfolds from each token (see
    `dinoscope.models.heads.DenseDecoder`).
    """

    name: str
    backbone: str
    backbone_hash: str = ""
    layers: tuple[int, ...] = ()
    heads: Mapping[str, HeadSpec] = field(default_factory=dict)
    normalization: Mapping[str, Any] = field(default_factory=lambda: {"mode": "percentile"})
    diameter_px: float | None = None
    zoom: float = 1.0
    pixel_size_um: float | None = None
    channels: tuple[str, ...] = ()
    tile: tuple[int, int] = TILE
    object_px: float | None = None
    fine_channels: int = 0
    adapter: Mapping[str, Any] | None = None
    description: str = ""
    licence: str = ""
    data: tuple[str, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    version: str = __version__

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary; `from_json` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelCard:
        """Read a card, ignoring entries that a newer version may have added.

        Raises
        ------
        ModelFileError
            A required entry is missing or has the wrong form.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        kept = {k: v for k, v in values.items() if k in known}
        try:
            kept["heads"] = {
                task: _head(spec) for task, spec in dict(kept.get("heads", {})).items()
            }
            for name in ("layers", "channels", "tile", "data", "notes"):
                if name in kept:
                    kept[name] = tuple(kept[name])
            return cls(**kept)
        except (TypeError, ValueError, AttributeError) as error:
            raise ModelFileError(
                f"the model card cannot be read ({error})",
                expected="a card written by dinoscope",
                hint="Export the model again.",
            ) from error

    def replace(self, **changes: Any) -> ModelCard:
        """A copy with some entries changed."""
        return dataclasses.replace(self, **changes)


def _head(entries: Mapping[str, Any]) -> HeadSpec:
    known = {f.name for f in dataclasses.fields(HeadSpec)}
    values: dict[str, Any] = {k: v for k, v in entries.items() if k in known}
    if "classes" in values:
        values["classes"] = tuple(values["classes"])
    return HeadSpec(**values)
