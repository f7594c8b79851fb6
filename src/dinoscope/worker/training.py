"""The job that trains: files and layers in, a model file out, the loss on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoscope.config import TrainOptions, UnlabelledOptions
from dinoscope.errors import InputError
from dinoscope.types import ImageInput
from dinoscope.worker.jobs import JobContext, Steps
from dinoscope.worker.models import plain

if TYPE_CHECKING:
    from dinoscope.engine.dataset import TaskSource
    from dinoscope.engine.unlabelled import Unlabelled


def train(context: JobContext) -> Steps:
    """Train; see the table in :mod:`dinoscope.worker.jobs` for what is asked for."""
    from dinoscope.engine.train import train as run

    payload = context.payload
    options: TrainOptions = payload["options"]
    options = dataclasses.replace(options, threads=options.threads or context.tools.threads)
    steps = run(
        [source(entry, context.images) for entry in payload["sources"]],
        options,
        output=Path(payload["output"]),
        base=payload.get("base") or "embedded",
        val_sources=[source(entry, context.images) for entry in payload.get("val_sources") or ()],
        new_heads=bool(payload.get("new_heads", False)),
        allow_download=bool(payload.get("allow_download", False)),
        splits=payload.get("splits"),
        unlabelled=unlabelled(payload.get("unlabelled"), context.images),
    )
    summary = yield from steps
    return {"output": str(payload["output"]), "summary": plain(summary)}


def unlabelled(
    entry: Mapping[str, Any] | None, images: Mapping[str, ImageInput]
) -> Unlabelled | None:
    """Images without labels from their description.

    Raises
    ------
    InputError
        It names an image that was not given with the job, or no image.
    """
    if not entry:
        return None
    from dinoscope.engine.dataset import images_in
    from dinoscope.engine.unlabelled import Unlabelled

    folder = entry.get("images_dir")
    items = images_in(Path(folder)) if folder else [_image(i, images) for i in entry["images"]]
    options = entry.get("options") or UnlabelledOptions("consistency")
    return Unlabelled(items, options, entry.get("axes"))


def source(entry: Mapping[str, Any], images: Mapping[str, ImageInput]) -> TaskSource:
    """One source of training images from its description.

    Raises
    ------
    InputError
        It names an image that was not given with the job, or lacks a part.
    """
    from dinoscope.engine.dataset import TaskSource, sources_from_folders

    if "images_dir" in entry:
        return sources_from_folders(
            Path(entry["images_dir"]), Path(entry["labels"]), entry["task"], axes=entry.get("axes")
        )
    missing = [name for name in ("task", "images", "truths") if name not in entry]
    if missing:
        raise InputError(
            f"a training source lacks {', '.join(missing)}", expected="task, images and truths"
        )
    classes = entry["task"] == "classification"
    truths = entry["truths"]
    return TaskSource(
        entry["task"],
        [_image(item, images) for item in entry["images"]],
        [str(item) if classes else _image(item, images) for item in truths],
        name=str(entry.get("name", "images")),
        axes=entry.get("axes"),
        groups=entry.get("groups"),
    )


def _image(item: Any, images: Mapping[str, ImageInput]) -> Path | ImageInput:
    """A path, or the image that ``{"image": name}`` names."""
    if not isinstance(item, Mapping):
        return Path(item)
    name = item.get("image")
    if name not in images:
        raise InputError(
            f"a training source names image {name!r}",
            expected="one of " + ", ".join(sorted(images)),
        )
    return images[str(name)]
