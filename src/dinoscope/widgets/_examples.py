"""What a model is taught: image layers and their targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dinoscope.errors import InputError
from dinoscope.types import ImageInput
from dinoscope.widgets._layers import Source, full_size, guess_axes, pixel_sizes_um

if TYPE_CHECKING:
    from napari.layers import Layer

TARGET_KIND = {"instance": "labels", "semantic": "labels", "depth": "image"}


@dataclass(frozen=True)
class Example:
    """An image and what the model should say about it: a layer, or the name of a class."""

    source: Source
    task: str
    target: Layer | str

    @property
    def text(self) -> str:
        """One line for the list of examples."""
        name = self.target if isinstance(self.target, str) else self.target.name
        return f"{self.source.layer.name}  →  {name}"


def make_example(source: Source, task: str, target: Layer | str | None) -> Example:
    """Check that a target fits its image.

    Raises
    ------
    InputError
        No target, a target of another size, or one without anything in it.
    """
    if task == "classification":
        name = target.strip() if isinstance(target, str) else ""
        if not name:
            raise InputError("no class is named", hint="Type the class of this image.")
        return Example(source, task, name)
    if target is None or isinstance(target, str):
        what = "Labels layer" if TARGET_KIND[task] == "labels" else "image layer with the depth"
        raise InputError("no target is chosen", expected=f"a {what}")
    if target is source.layer:
        raise InputError("image and target are the same layer", expected="two different layers")
    axes = guess_axes(target)
    shape = dict(zip(axes, full_size(target).shape, strict=False))
    for letter in "YX":
        if shape[letter] != source.image.size(letter):
            raise InputError(
                f"{target.name!r} is {shape['X']} × {shape['Y']} px",
                expected=f"{source.image.size('X')} × {source.image.size('Y')} px as in "
                f"{source.layer.name!r}",
            )
    planes = tuple(n for a, n in shape.items() if a not in "CSYX")
    if planes != source.image.plane_shape:
        raise InputError(
            f"{target.name!r} has planes {planes or 'none'}",
            expected=f"{source.image.plane_shape or 'one plane'} as {source.layer.name!r} has",
        )
    if isinstance(full_size(target), np.ndarray) and not np.any(full_size(target)):
        raise InputError(
            f"{target.name!r} is empty", hint="Paint some objects first, or choose another layer."
        )
    return Example(source, task, target)


def training_sources(
    examples: Sequence[Example],
) -> tuple[list[dict[str, Any]], dict[str, ImageInput]]:
    """The worker's description of what is learned, and the images that belong to it.

    Raises
    ------
    InputError
        Nothing to learn from, or only one class.
    """
    if not examples:
        raise InputError("there are no examples", hint="Choose an image and its target.")
    classes = {e.target for e in examples if e.task == "classification"}
    if len(classes) == 1:
        raise InputError(
            f"all images are of class {next(iter(classes))!r}",
            expected="images of at least two classes",
            hint="Add examples of another class to the list.",
        )
    images: dict[str, ImageInput] = {}
    sources: dict[str, dict[str, Any]] = {}
    for number, example in enumerate(examples):
        images[f"image{number}"] = example.source.image
        truth: Any = example.target
        if not isinstance(truth, str):
            axes = guess_axes(truth)
            images[f"truth{number}"] = ImageInput(
                full_size(truth), axes, pixel_sizes_um(truth, axes), name=truth.name
            )
            truth = {"image": f"truth{number}"}
        source = sources.setdefault(
            example.task, {"task": example.task, "images": [], "truths": []}
        )
        source["images"].append({"image": f"image{number}"})
        source["truths"].append(truth)
    return list(sources.values()), images
