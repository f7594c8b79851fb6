"""Run a model over the images that have a truth, so that it can be evaluated."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dinoscope.arrays.files import SUFFIXES, image_stem, read_image, write_table
from dinoscope.arrays.output import PlaneWriter
from dinoscope.config import PredictOptions
from dinoscope.engine.pairs import truth_stems
from dinoscope.errors import InputError
from dinoscope.types import PlaneOutput, Progress, Summary, Table

if TYPE_CHECKING:
    from dinoscope.models.model import Model


def predict_folder(
    model: Model,
    images: Path,
    truth: Path,
    options: PredictOptions,
    output: Path,
    axes: str | None = None,
) -> Generator[Progress, None, dict[str, Any]]:
    """Predict those images of a folder that have a truth, and write what is evaluated.

    Parameters
    ----------
    model : Model
    images : Path
        Folder of images.
    truth : Path
        Folder of label images, or (classification) table ``image,class``.
    options : PredictOptions
        With exactly one task.
    output : Path
        Folder for the predictions.
    axes : str, optional
        Axes of every image.

    Yields
    ------
    Progress
        Images that are done.

    Returns
    -------
    dict
        ``model hash device depth_unit images diameter_px``: what was run.

    Raises
    ------
    InputError
        No image has a truth, or a truth has no image.
    """
    from dinoscope.engine.predict import predict

    (task,) = options.tasks
    paths = _images_with_truth(images, truth, task)
    tables: list[Table] = []
    summary: Summary | None = None
    for number, path in enumerate(paths):
        image = read_image(path, axes)
        outputs: list[PlaneOutput] = []
        steps = predict(image, model, options)
        try:
            while True:
                # Told at every tile, so that a cancel is seen within an image too.
                yield Progress("predict", number, len(paths), message=path.name)
                step = next(steps)
                if isinstance(step, PlaneOutput):
                    outputs.append(step)
        except StopIteration as stop:
            summary = stop.value
        finally:
            steps.close()
        stem = image_stem(path)
        if task == "classification":
            tables += [_class_rows(stem, n, out.classes) for n, out in enumerate(outputs)]
            continue
        planes = [np.asarray(out.arrays[task]) for out in outputs]
        shape = tuple(image.size(axis) for axis in image.plane_axes) + planes[0].shape
        target = output / f"{stem}_{task}.tif"
        with PlaneWriter(target, shape, image.plane_axes + "YX", planes[0].dtype) as writer:
            for plane in planes:
                writer.write(plane)
        if task == "instance":  # their confidence ranks objects for COCO's figures
            write_table(output / f"{stem}_objects.csv", _joined([o.objects or {} for o in outputs]))
    if task == "classification":
        write_table(output / "classification.csv", _joined(tables))
    yield Progress("predict", len(paths), len(paths))
    if summary is None:
        raise InputError(f"{images} holds no image", expected="at least one")
    return {
        "model": summary.model,
        "hash": summary.model_hash,
        "device": summary.device,
        "depth_unit": summary.depth_unit,
        "diameter_px": summary.diameter_px,
        "images": len(paths),
    }


def _joined(tables: Sequence[Table]) -> Table:
    """Tables of the same columns below each other."""
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def _class_rows(stem: str, plane: int, classes: Table | None) -> Table:
    """Rows of one plane, objects left to the images they lie in."""
    table = dict(classes or {})
    rows = len(next(iter(table.values()), ()))
    return {
        "image": np.full(rows, stem, dtype=object),
        "plane": np.full(rows, plane),
        **{
            name: np.asarray(column)
            for name, column in table.items()
            if name not in ("image", "plane")
        },
    }


def _images_with_truth(images: Path, truth: Path, task: str) -> list[Path]:
    if not images.is_dir():
        raise InputError(f"image folder {images} does not exist", expected="a folder of images")
    found = {
        image_stem(path): path
        for path in sorted(images.iterdir())
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    }
    wanted = truth_stems(truth, task)
    missing = [name for name in wanted if name not in found]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(wanted)} truths in {truth} have no image in {images}: "
            + ", ".join(missing[:5]),
            expected="an image of the same name for each truth",
        )
    return [found[name] for name in wanted]
