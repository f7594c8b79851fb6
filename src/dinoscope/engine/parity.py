"""Whether an exported model says what the model says: errors of its maps, and of its objects."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dinoscope.arrays.axes import plane_indices, read_plane
from dinoscope.arrays.decode import decode_instances
from dinoscope.arrays.files import read_image
from dinoscope.arrays.metrics import average_precision
from dinoscope.arrays.normalize import Normalization, limits, to_model_input
from dinoscope.arrays.tiling import LEAST_PATCHES
from dinoscope.datasets.synthetic import make
from dinoscope.errors import DinoscopeError, InputError
from dinoscope.models.export import Activation
from dinoscope.models.model import Model
from dinoscope.tasks.base import task
from dinoscope.tasks.instance import MAX_LOG_SIZE
from dinoscope.types import ImageInput

#: Activations as `dinoscope.tasks` applies them, for the graph; parity would show a difference.
ACTIVATIONS: Mapping[str, Sequence[Activation]] = {
    "instance": (Activation("sigmoid", 0, 3), Activation("clip", 3, 4, MAX_LOG_SIZE)),
    "semantic": (Activation("softmax"),),
    "classification": (Activation("softmax"),),
}
#: An export whose instance AP differs by more than this from the model's is no faithful one.
AP_TOLERANCE = 0.002
#: What an int8 export may lose.
INT8_TOLERANCE = 0.005
#: Overlap from which objects count as the same.
_IOU = 0.5

Run = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class KnownTile:
    """Normalised pixels ``(3, y, x)``, and true objects ``(y, x)`` where they are known."""

    name: str
    pixels: np.ndarray
    truth: np.ndarray | None = None


@dataclass
class Parity:
    """Differences between an export and its model, over all tiles.

    `max_error` and `mean_error` are absolute, by task. `instance_ap_difference` is the larger of
    the difference in AP on tiles with known objects, and of what the export's objects lack to match
    the model's own on the others (1 - AP); ``None`` without an instance head. `tile_ms` is the
    time of one tile.
    """

    max_error: dict[str, float] = field(default_factory=dict)
    mean_error: dict[str, float] = field(default_factory=dict)
    instance_ap_difference: float | None = None
    tile_ms: float = 0.0
    tiles: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def real_tiles(model: Model, side: int = 252) -> list[KnownTile]:
    """Photographs of cells that scikit-image ships, and made images whose objects are known.

    Each has another size, so that a file that holds for one size only is found out.
    """
    from skimage import data

    patch = model.backbone.patch
    tiles = []
    photographs: dict[str, Callable[[], np.ndarray]] = {
        "cell": data.cell,
        "coins": data.coins,
        "tissue": data.immunohistochemistry,
    }
    for number, (name, load) in enumerate(photographs.items()):
        pixels = normalized(model, load(), name)
        # A photograph that is smaller than that gives all whole patches it has.
        height = min(side + number * 2 * patch, pixels.shape[1]) // patch * patch
        width = min(side, pixels.shape[2]) // patch * patch
        tiles.append(KnownTile(name, _middle(pixels, height, width)))
    diameter = model.card.diameter_px or 28.0
    for seed in (0, 1):
        made = make("nuclei", (side // patch * patch,) * 2, seed=seed, diameter=diameter)
        image = np.asarray(made.image[0] * 4000, np.uint16)
        pixels = normalized(model, image, f"nuclei {seed}")
        tiles.append(KnownTile(f"nuclei {seed}", pixels, np.asarray(made.instances)))
    return tiles


def normalized(model: Model, image: np.ndarray, name: str = "image") -> np.ndarray:
    """``(3, Y, X)`` float32 of an array ``(Y, X)`` or ``(Y, X, 3)``, as the model's card asks."""
    return _plane(model, ImageInput(image, "YX" if image.ndim == 2 else "YXS", name=name))


def _plane(model: Model, image: ImageInput, index: tuple[int, ...] = ()) -> np.ndarray:
    normalization = Normalization.from_json(model.card.normalization)
    pixels = read_plane(image, index)
    return to_model_input(pixels, limits(image, normalization), normalization)


def _middle(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    y0, x0 = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
    y0, x0 = max(0, y0), max(0, x0)
    return np.ascontiguousarray(pixels[:, y0 : y0 + height, x0 : x0 + width])


def calibration_tiles(
    model: Model, paths: Sequence[Path], side: int, most: int
) -> list[np.ndarray]:
    """Tiles ``(1, 3, y, x)`` of at most `side` pixels from the middle of the user's images.

    Raises
    ------
    InputError
        None of the images can be read.
    """
    patch = model.backbone.patch
    tiles = []
    for path in paths:
        try:
            image = read_image(path)
        except DinoscopeError:
            continue
        pixels = _middle(_plane(model, image, next(iter(plane_indices(image)))), side, side)
        sides = [max(LEAST_PATCHES * patch, -(-n // patch) * patch) for n in pixels.shape[1:]]
        missing = [(0, full - n) for full, n in zip(sides, pixels.shape[1:], strict=True)]
        tiles.append(np.pad(pixels, [(0, 0), *missing], mode="edge")[None])
        if len(tiles) == most:
            break
    if not tiles:
        raise InputError(
            f"none of {len(paths)} files can calibrate int8", expected="images that can be read"
        )
    return tiles


def compare(model: Model, run: Run, tasks: Sequence[str], tiles: Sequence[KnownTile]) -> Parity:
    """Run an export and the model in float32 on the same tiles.

    Parameters
    ----------
    model : Model
        On the CPU.
    run : callable
        Takes ``(B, 3, y, x)`` float32, returns outputs by task.
    tasks : sequence of str
        Outputs to compare.
    tiles : sequence of KnownTile
        Of any sizes.

    Raises
    ------
    InputError
        An output is missing or has another shape.
    """
    found = Parity(tiles=len(tiles))
    errors: dict[str, list[np.ndarray]] = {t: [] for t in tasks}
    truths: list[float] = []
    alike: list[float] = []
    seconds = []
    for tile in tiles:
        batch = tile.pixels[None]
        exact = _torch(model, batch, tasks)
        run(batch)  # the first of a size prepares buffers
        begun = time.perf_counter()
        outputs = run(batch)
        seconds.append(time.perf_counter() - begun)
        for name in tasks:
            if name not in outputs or outputs[name].shape != exact[name].shape:
                shape = outputs[name].shape if name in outputs else None
                raise InputError(
                    f"the exported output {name!r} has shape {shape} on {tile.name!r}",
                    expected=f"{exact[name].shape}",
                )
            errors[name].append(np.abs(outputs[name] - exact[name]).ravel())
        if "instance" in tasks:
            ids, theirs = _objects(exact["instance"]), _objects(outputs["instance"])
            if tile.truth is not None:
                truths.append(_ap(tile.truth, theirs) - _ap(tile.truth, ids))
            alike.append(1 - _ap(ids, theirs))
    for name, values in errors.items():
        found.max_error[name] = float(max(v.max() for v in values))
        found.mean_error[name] = float(np.mean(np.concatenate(values)))
    if alike:
        found.instance_ap_difference = max(
            abs(float(np.mean(truths or [0]))), float(np.mean(alike))
        )
    found.tile_ms = 1000 * float(np.median(seconds))
    return found


@torch.inference_mode()
def _torch(model: Model, batch: np.ndarray, tasks: Sequence[str]) -> dict[str, np.ndarray]:
    raw = model(torch.from_numpy(batch))
    return {name: task(name).activate(raw[name].float()).numpy() for name in tasks}


def _objects(maps: np.ndarray) -> np.ndarray:
    return decode_instances(np.rint(maps[0, :3] * 255).clip(0, 255).astype(np.uint8))


def _ap(truth: np.ndarray, ids: np.ndarray) -> float:
    return float(average_precision(truth, ids, (_IOU,))[0])
