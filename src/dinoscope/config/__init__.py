"""Every option once: default, range, help. The panels and the command line are made from this."""

from __future__ import annotations

from dataclasses import dataclass, field

from dinoscope.config.improving import ImproveOptions
from dinoscope.config.machine import available_cores, default_threads
from dinoscope.config.options import (
    DEVICES,
    RUNTIMES,
    TASKS,
    TRAINABLE_TASKS,
    OptionInfo,
    check,
    option,
    options_of,
)
from dinoscope.config.training import (
    SearchOptions,
    SplitOptions,
    TrainOptions,
    UnlabelledOptions,
    parse_tune,
    parse_weights,
)
from dinoscope.errors import InputError

__all__ = [
    "AnnotateOptions",
    "ClusterOptions",
    "DEVICES",
    "EvaluateOptions",
    "ExploreOptions",
    "ImageOptions",
    "ImproveOptions",
    "InstanceOptions",
    "LAYER_NAMES",
    "OptionInfo",
    "PcaOptions",
    "PredictOptions",
    "ProjectionOptions",
    "RUNTIMES",
    "SearchOptions",
    "SimilarityOptions",
    "SplitOptions",
    "TASKS",
    "TRAINABLE_TASKS",
    "TrainOptions",
    "UnlabelledOptions",
    "available_cores",
    "check",
    "default_threads",
    "option",
    "options_of",
    "parse_layers",
    "parse_tune",
    "parse_weights",
]


@dataclass(frozen=True)
class InstanceOptions:
    """How kept maps become objects; all of it can be changed without running the network."""

    threshold: float = option(
        0.5, "How sure a pixel must be to belong to an object.", low=0.02, high=0.98
    )
    min_size_px: int = option(
        12, "Objects of fewer pixels are dropped.", low=0, high=10_000_000, unit="px"
    )
    min_size_share: float = option(
        0.02,
        "Objects smaller than this share of the typical object's area are dropped.",
        low=0,
        high=1,
    )
    remove_border: bool = option(False, "Drop objects that touch the border of the image.")
    fill_holes: bool = option(True, "Fill holes inside objects.")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How an image is brought before a model, and where it is computed."""

    channels: tuple[int, ...] | None = option(
        None, "Channels that feed the model, by number; all of them when not given."
    )
    diameter_px: float | None = option(
        None,
        "Typical object diameter in pixels of the image; estimated when not given.",
        low=2,
        high=5000,
        unit="px",
    )
    pixel_size_um: float | None = option(
        None, "Pixel size in µm; taken from the file or layer when not given.", low=1e-5, high=1e4
    )
    denoise: bool = option(False, "Median-filter each plane first.")
    local_contrast: bool = option(False, "Equalise local contrast first (CLAHE).")
    device: str = option("auto", "Where to compute.", choices=DEVICES)
    threads: int = option(0, "CPU threads; 0 = all available.", low=0, high=1024)
    region: tuple[int, int, int, int] | None = None  # y0, x0, y1, x1 in pixels


@dataclass(frozen=True)
class PredictOptions(ImageOptions):
    """One prediction run."""

    tasks: tuple[str, ...] = ("instance",)
    channel_weights: tuple[float, ...] | None = option(
        None, "Weights of those channels when they are fused into one."
    )
    runtime: str = option(
        "auto",
        "What computes the tokens; auto = PyTorch, or what was measured to be faster on this "
        "machine where there is much to do.",
        choices=RUNTIMES,
    )
    #: Wait for a runtime that was asked for by hand; a window goes on with PyTorch meanwhile.
    wait_for_runtime: bool = True
    plane: tuple[int, ...] | None = None
    instance: InstanceOptions = field(default_factory=InstanceOptions)
    keep_maps: bool = False

    def __post_init__(self) -> None:
        check(self)
        unknown = [t for t in self.tasks if t not in TASKS]
        if unknown or not self.tasks:
            raise InputError(f"tasks are {self.tasks!r}", expected="some of " + ", ".join(TASKS))


@dataclass(frozen=True)
class EvaluateOptions:
    """How predictions are scored and their errors shown."""

    fault_threshold: float = option(
        0.5, "IoU from which an object counts as found in the error map.", low=0.05, high=1
    )
    boundary_tolerance_px: float = option(
        2.0, "How far outlines of classes may lie apart.", low=0, high=1000, unit="px"
    )
    worst: int = option(8, "How many of the worst images are shown as pictures.", low=0, high=100)
    depth_unit: str = option("", "Unit of the depth maps, where it is known.")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class ExploreOptions(ImageOptions):
    """Which tokens an image is looked at through."""

    layers: str = option(
        "last",
        "Whose tokens: early, middle, last, several of them as early+last, or blocks from 0 as "
        "3,7,11.",
    )
    zoom: float | None = option(
        None,
        "Model pixels per image pixel; as in a prediction when not given. More gives finer "
        "patches.",
        low=1 / 16,
        high=8,
    )

    def __post_init__(self) -> None:
        check(self)
        parse_layers(self.layers)


@dataclass(frozen=True)
class AnnotateOptions(ExploreOptions):
    """What strokes are learned on: which tokens, and whether with classical filters."""

    filters: bool = option(
        True, "Use classical filters (edges, ridges, texture) besides the model's tokens."
    )
    cache_mb: int = option(
        2000,
        "Disk space that tokens of annotated images may take.",
        low=0,
        high=1_000_000,
        unit="MB",
    )
    seed: int = option(0, "Seed of everything random.", low=0, high=2**31 - 1)


LAYER_NAMES = ("early", "middle", "last")


def parse_layers(text: str) -> tuple[str | int, ...]:
    """Split ``last``, ``early+last`` or ``3,7,11`` into names and numbers of blocks.

    Raises
    ------
    InputError
        Any other text.

    Examples
    --------
    >>> parse_layers("early+last"), parse_layers("3, 11")
    (('early', 'last'), (3, 11))
    """
    parts = [part.strip() for part in text.replace("+", ",").split(",")]
    found = tuple(int(p) if p.isdecimal() else p for p in parts)
    if all(isinstance(p, int) or p in LAYER_NAMES for p in found):
        return found
    raise InputError(
        f"layers are {text!r}",
        expected="early, middle, last, several as early+last, or blocks from 0 as 3,7,11",
    )


@dataclass(frozen=True)
class PcaOptions:
    """Tokens as colours."""

    components: tuple[int, ...] = option((0, 1, 2), "Which components are red, green and blue.")
    low: float = option(1.0, "Percentile that is black.", low=0, high=49, unit="%")
    high: float = option(99.0, "Percentile that is full.", low=51, high=100, unit="%")
    basis: str = option(
        "shared",
        "Components found in everything together, or in each image and model by itself.",
        choices=("shared", "own"),
    )
    upsample: str = option(
        "image",
        "One pixel a patch, interpolated to the image, or along the edges of the image.",
        choices=("patch", "linear", "image"),
    )

    def __post_init__(self) -> None:
        check(self)
        if len(self.components) != 3 or not all(0 <= c < 16 for c in self.components):
            raise InputError(
                f"components are {self.components!r}", expected="three numbers from 0 to 15"
            )


@dataclass(frozen=True)
class ProjectionOptions:
    """Tokens as points of a plot."""

    method: str = option("pca", "How points are laid out.", choices=("pca", "tsne", "umap"))
    dimensions: int = option(2, "Axes of the plot.", low=2, high=3)
    perplexity: float = option(30.0, "t-SNE: how many neighbours count, about.", low=2, high=500)
    neighbours: int = option(15, "UMAP: neighbours of a point.", low=2, high=500)
    min_distance: float = option(0.1, "UMAP: how close points may lie.", low=0.0, high=0.99)
    fit_points: int | None = option(
        None,
        "Points that are laid out first, the others are placed among them; by default 10000 for "
        "t-SNE, 50000 for UMAP.",
        low=50,
        high=1_000_000,
    )
    seed: int = option(0, "Seed of everything random.", low=0, high=2**31 - 1)

    def __post_init__(self) -> None:
        check(self)
        if self.dimensions not in (2, 3):
            raise InputError(f"dimensions is {self.dimensions!r}", expected="2 or 3")


@dataclass(frozen=True)
class ClusterOptions:
    """Groups of points."""

    method: str = option("kmeans", "How groups are found.", choices=("kmeans", "hdbscan"))
    clusters: int = option(8, "k-means: number of groups.", low=2, high=1000)
    min_size: int = option(20, "HDBSCAN: points of the smallest group.", low=2, high=100_000)
    space: str = option(
        "features",
        "Groups of tokens, or of points as the plot lays them out.",
        choices=("features", "projection"),
    )
    seed: int = option(0, "Seed of everything random.", low=0, high=2**31 - 1)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class SimilarityOptions:
    """How alike everything is to what was clicked."""

    upsample: str = option(
        "linear",
        "One pixel a patch, interpolated to the image, or along the edges of the image.",
        choices=("patch", "linear", "image"),
    )
    centred: bool = option(
        False, "Leave out what all patches have in common: more contrast, other thresholds."
    )
    threshold: float | None = option(
        None, "From which score on a pixel is labelled.", low=-1, high=1
    )

    def __post_init__(self) -> None:
        check(self)
