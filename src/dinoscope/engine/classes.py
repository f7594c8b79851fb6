"""Class probabilities as tables, beside images and objects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dinoscope.types import ImageInput, Table


def plane_name(image: ImageInput, index: Sequence[int]) -> str:
    """A plane as tables name it: ``T0/Z3``; empty for an image of one plane."""
    return "/".join(f"{a}{i}" for a, i in zip(image.plane_axes, index, strict=True))


def class_table(
    names: Sequence[str], probabilities: np.ndarray, *, image: str, plane: str
) -> Table:
    """Best class and all probabilities, a row for each row of `probabilities`.

    Parameters
    ----------
    names : Sequence[str]
        The K classes.
    probabilities : (N, K) float array
        Rows add up to 1.
    image, plane : str
        What the rows belong to; ``object`` is 0, the whole image.

    Returns
    -------
    Table
        ``image``, ``plane``, ``object``, ``class``, ``probability``, ``p_<class>`` for each class.
    """
    count = len(probabilities)
    best = probabilities.argmax(1) if count else np.zeros(0, int)
    table: Table = {
        "image": np.array([image] * count, dtype=object),
        "plane": np.array([plane] * count, dtype=object),
        "object": np.zeros(count, int),
        "class": np.array([names[i] for i in best], dtype=object),
        "probability": probabilities.max(1) if count else np.zeros(0, np.float32),
    }
    return table | {f"p_{name}": probabilities[:, i] for i, name in enumerate(names)}


def join_classes(objects: Table, classes: Table) -> None:
    """Class and probability beside each object's measures."""
    rows = objects["label"].astype(int) - 1
    objects["class"] = classes["class"][rows]
    objects["probability"] = classes["probability"][rows]
