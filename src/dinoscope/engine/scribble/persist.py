"""A fast-loop classifier as a file: safetensors with a JSON description, no pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.arrays.output import replacing
from dinoscope.engine.scribble.classifier import Classifier
from dinoscope.engine.scribble.experts import Linear, Network
from dinoscope.engine.scribble.features import Projection
from dinoscope.engine.scribble.forest import Forest
from dinoscope.errors import InputError

FORMAT = "dinoscope-scribbles-1"


def save_classifier(
    path: str | Path, classifier: Classifier, projection: Projection, about: dict[str, Any]
) -> Path:
    """Write a classifier.

    Parameters
    ----------
    path : str or Path
        ``.safetensors`` is added where it has no suffix.
    about : dict
        Plain values that go with it: which model, which zoom.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    from safetensors.numpy import save_file

    path = Path(path)
    path = path if path.suffix else path.with_suffix(".safetensors")
    arrays = {
        "features": classifier.forest.features.astype(np.int32),
        "thresholds": classifier.forest.thresholds,
        "leaves": classifier.forest.leaves,
        "codes": classifier.codes,
        "mean": projection.mean,
        "matrix": projection.matrix,
    }
    linear = classifier.linear
    if linear is not None:
        arrays |= {
            "linear_columns": linear.columns.astype(np.int32),
            "linear_matrix": linear.matrix,
            "linear_offset": linear.offset,
        }
    if classifier.network is not None:
        arrays["network_columns"] = classifier.network.columns.astype(np.int32)
    card = {
        "format": FORMAT,
        "temperature": classifier.temperature,
        "ece": classifier.ece,
        "accuracy": classifier.accuracy,
        "linear_say": linear.say if linear is not None else 0.0,
        **about,
    }
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with replacing(path) as part:
        save_file(whole, part, metadata={"dinoscope": json.dumps(card)})
    return path


def load_classifier(path: str | Path) -> tuple[Classifier, Projection, dict[str, Any]]:
    """Read what :func:`save_classifier` wrote.

    Raises
    ------
    InputError
        It is no such file, or it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "np") as file:
            card = json.loads((file.metadata() or {}).get("dinoscope", "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if card.get("format") != FORMAT:
            raise InputError(
                f"{str(path)!r} is not a classifier of strokes",
                expected="a file written by Save classifier",
            )
        forest = _checked(
            Forest(arrays["features"].astype(np.int64), arrays["thresholds"], arrays["leaves"]),
            arrays["codes"],
        )
        classifier = Classifier(
            arrays["codes"],
            forest,
            float(card["temperature"]),
            card.get("ece"),
            card.get("accuracy"),
            linear=_linear(arrays, card),
            network=_network(arrays),
        )
        return classifier, Projection(arrays["mean"], arrays["matrix"]), card
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"classifier {str(path)!r} cannot be read ({error})",
            expected="a file written by Save classifier",
        ) from error


def _linear(arrays: dict[str, np.ndarray], card: dict[str, Any]) -> Linear | None:
    if "linear_matrix" not in arrays:
        return None
    columns = arrays["linear_columns"].astype(np.int64)
    matrix, offset = arrays["linear_matrix"], arrays["linear_offset"]
    say = float(card["linear_say"])
    fits = (
        matrix.shape == (len(columns), len(arrays["codes"]))
        and offset.shape == (len(arrays["codes"]),)
        and int(columns.min(initial=0)) >= 0
        and bool(np.isfinite(matrix).all() and np.isfinite(offset).all() and np.isfinite(say))
    )
    if not fits:
        raise ValueError("its arrays do not fit together")
    return Linear(columns, matrix, offset, say)


def _network(arrays: dict[str, np.ndarray]) -> Network | None:
    if "network_columns" not in arrays:
        return None
    columns = arrays["network_columns"].astype(np.int64)
    if columns.shape != arrays["codes"].shape or int(columns.min()) < 0:
        raise ValueError("its arrays do not fit together")
    return Network(columns)


def _checked(forest: Forest, codes: np.ndarray) -> Forest:
    trees, depth = forest.features.shape
    fits = (
        forest.thresholds.shape == (trees, depth)
        and forest.thresholds.dtype == np.uint8
        and codes.dtype == np.uint8
        and len(codes) > 0
        and forest.leaves.shape == (trees, 2**depth, len(codes))
        and int(forest.features.min(initial=0)) >= 0
        and bool(np.isfinite(forest.leaves).all())
    )
    if not fits:
        raise ValueError("its arrays do not fit together")
    return forest
