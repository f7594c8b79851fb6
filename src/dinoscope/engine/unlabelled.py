"""Images without labels: how they are read, cropped, and looked at twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dinoscope.arrays.axes import read_plane, sample_indices
from dinoscope.arrays.files import image_stem
from dinoscope.arrays.normalize import Normalization, limits, to_model_input
from dinoscope.config import UnlabelledOptions
from dinoscope.engine.augment import Augmentation, make_crop, vary_intensity
from dinoscope.engine.batches import CropPlan
from dinoscope.engine.dataset import TaskSource, TrainingImage
from dinoscope.engine.loading import as_image
from dinoscope.engine.splits import PlaneBlock
from dinoscope.errors import InputError
from dinoscope.types import ImageInput

#: So many planes are kept in memory; of more, evenly spaced ones.
MOST_PLANES = 400
#: Planes of one stack that are used.
MOST_OF_A_STACK = 16
#: Intensity changes of the view that is hard to read.
STRONG = Augmentation(intensity=0.8, invert=0.1)


@dataclass(frozen=True)
class Unlabelled:
    """Images without labels, and what is learned from them."""

    images: Sequence[Path | ImageInput]
    options: UnlabelledOptions
    axes: str | None = None


def without(
    images: Sequence[Path | ImageInput], held: Sequence[TaskSource]
) -> tuple[list[Path | ImageInput], int]:
    """`images` that are not among those of `held`, and how many were.

    Images that choose or judge a model must not train it, not even without their labels. Files are
    told by their stem, so that a copy in another folder is recognised.
    """
    names = {_name(reference) for source in held for reference in source.images}
    kept = [i for i in images if _name(i) not in names]
    return kept, len(images) - len(kept)


def kept_apart(unlabelled: Unlabelled | None, held: Sequence[TaskSource]) -> Unlabelled | None:
    """The same without images that are also among `held`."""
    if unlabelled is None:
        return None
    return replace(unlabelled, images=without(unlabelled.images, held)[0])


def _name(reference: Path | ImageInput) -> str:
    if not isinstance(reference, ImageInput):
        return image_stem(reference)
    # Neighbouring planes look alike: a stack of which planes are held out is held out as a whole.
    return reference.data.origin if isinstance(reference.data, PlaneBlock) else reference.name


def load_unlabelled(
    images: Sequence[Path | ImageInput], normalization: Normalization, axes: str | None = None
) -> list[TrainingImage]:
    """Planes without truths, normalised as those with truths are.

    Raises
    ------
    InputError
        There is no image.
    """
    if not images:
        raise InputError(
            "there is no image without labels", expected="at least one that is not held out"
        )
    chosen = [images[int(i)] for i in np.linspace(0, len(images) - 1, min(len(images), 400))]
    each = max(1, min(MOST_OF_A_STACK, MOST_PLANES // len(chosen)))
    planes = []
    for reference in chosen:
        image = as_image(reference, axes)
        bounds = limits(image, normalization)
        for index in sample_indices(image, each):
            pixels = to_model_input(read_plane(image, index), bounds, normalization)
            name = f"{image.name}@{'_'.join(map(str, index))}"
            planes.append(TrainingImage(name, image.name, pixels.astype(np.float16), {}))
    return planes


class Views:
    """Two views of each of some random crops: one as it is, one changed in intensity.

    Both have one geometry, so that what is said of a pixel of the one holds for that of the other.
    The crops of step `i` depend on seed and step alone.
    """

    def __init__(
        self, images: Sequence[TrainingImage], plan: CropPlan, batch_size: int, seed: int
    ) -> None:
        self.images = images
        self.plan = plan
        self.batch_size = batch_size
        self.seed = seed
        self.plain = replace(plan.augmentation, intensity=0.0)
        # Where absolute intensity tells classes apart, the strong view may not hide it.
        self.strong = replace(STRONG, keep_absolute=plan.augmentation.keep_absolute)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Weak and strong view, each ``(B, 3, crop, crop)`` float32."""
        rng = np.random.default_rng([self.seed, 0xD1_5C, step])
        weak, strong = [], []
        for number in rng.integers(len(self.images), size=self.batch_size):
            image = self.images[int(number)]
            pixels, _ = make_crop(
                image, rng, self.plan.crop_px, self.plan.zoom_of(image), self.plain, None
            )
            weak.append(pixels)
            strong.append(vary_intensity(pixels, rng, self.strong))
        return torch.from_numpy(np.stack(weak)), torch.from_numpy(np.stack(strong))


def ramp(share: float, length: float) -> float:
    """Weight of what is learned without labels: 0 to 1 along exp(-5 (1 - t)²).

    The curve is that of Laine & Aila (2017), arXiv:1610.02242. `share` is how much of the training
    is done, `length` the share over which the weight rises.
    """
    if length <= 0 or share >= length:
        return 1.0
    return float(np.exp(-5.0 * (1.0 - share / length) ** 2))


class Teacher:
    """Exponential moving average of a model's trainable tensors.

    Mean teacher: Tarvainen & Valpola (2017), arXiv:1703.01780. Kept on the model's own device.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.tensors: dict[str, Tensor] = {}
        self.steps = 0

    def begin(self, parameters: dict[str, Tensor]) -> None:
        """Start from these tensors unless there are some already."""
        if not self.tensors:
            self.tensors = {n: p.detach().clone() for n, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: dict[str, Tensor]) -> None:
        """Move towards `parameters`; faster in the first steps, when they change most."""
        self.begin(parameters)
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 9))
        for name, own in self.tensors.items():
            own.lerp_(parameters[name].detach().to(own), 1 - decay)

    def state(self) -> dict[str, object]:
        return {"tensors": self.tensors, "steps": self.steps}

    def load(self, state: dict[str, object]) -> None:
        """Take what `state` gave."""
        tensors = state["tensors"]
        self.tensors = dict(tensors) if isinstance(tensors, dict) else {}
        self.steps = int(str(state["steps"]))
