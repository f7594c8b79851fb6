"""A bioimage.io package: the ONNX file, its description, and tensors that prove it works.

The description follows the model specification 0.5 (https://bioimage.io). It is written as JSON,
which is YAML too.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope import __version__
from dinoscope.models.card import HeadSpec, ModelCard
from dinoscope.models.export import write_bytes

FORMAT_VERSION = "0.5.4"
_WEIGHTS, _INPUT, _DOCUMENTATION = "weights.onnx", "test_input.npy", "README.md"
#: Tokens of a tile this small still say something; the width grows in steps of the patch.
_LEAST_PATCHES = 8
_EPSILON = 1e-6
_MAPS = ("foreground", "centre", "boundary_distance", "log2_size")


def package(
    card: ModelCard,
    weights: bytes,
    opset: int,
    test_input: np.ndarray,
    test_outputs: Mapping[str, np.ndarray],
    *,
    patch: int = 14,
) -> dict[str, bytes]:
    """The files of a package, by name.

    Parameters
    ----------
    card : ModelCard
        With the heads that were exported.
    weights : bytes
        The ONNX file, and `opset` its version.
    test_input : ndarray
        ``(1, 3, y, x)`` float32 raw intensities, before `prepare`.
    test_outputs : Mapping
        What the network makes of the prepared input, by task.
    """
    files = {
        _WEIGHTS: weights,
        _INPUT: _npy(test_input),
        _DOCUMENTATION: _documentation(card).encode(),
        **{f"test_{name}.npy": _npy(array) for name, array in test_outputs.items()},
    }
    files["rdf.yaml"] = json.dumps(
        description(card, files, opset, list(test_outputs), patch), indent=2, ensure_ascii=False
    ).encode()
    return files


def prepare(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """The package's ``scale_range``: percentiles over the whole image to 0 and 1."""
    bottom, top = np.percentile(image, low), np.percentile(image, high)
    return np.asarray((image - bottom) / (top - bottom + _EPSILON), np.float32)


def percentiles(card: ModelCard) -> tuple[float, float]:
    """The percentiles of the card's normalisation."""
    entries = card.normalization
    return float(entries.get("low", 1.0)), float(entries.get("high", 99.8))


def write_package(files: Mapping[str, bytes], path: Path) -> Path:
    """Write the files as one zip.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return write_bytes(buffer.getvalue(), path)


def description(
    card: ModelCard, files: Mapping[str, bytes], opset: int, tasks: Sequence[str], patch: int
) -> dict[str, Any]:
    """The resource description, as plain values."""
    low, high = percentiles(card)
    least = _LEAST_PATCHES * patch
    return {
        "format_version": FORMAT_VERSION,
        "type": "model",
        "name": _name(card.name),
        "description": card.description or f"dinoscope model {card.name}",
        "authors": [{"name": "The dinoscope developers"}],
        "cite": [
            {"text": "Oquab et al., DINOv2 (2023)", "url": "https://arxiv.org/abs/2304.07193"},
            {"text": "Hu et al., LoRA (2021)", "url": "https://arxiv.org/abs/2106.09685"},
        ],
        "license": card.licence or "BSD-3-Clause",
        "tags": ["2d", "segmentation", "dinov2", "lora", "onnx", *tasks],
        "documentation": _file(files, _DOCUMENTATION),
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": "1.0",
        "inputs": [
            {
                "id": "image",
                "description": "One image, three channels (a single one repeated), any intensities",
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "channel_names": ["c0", "c1", "c2"]},
                    _space("y", {"min": least, "step": patch}),
                    _space("x", {"min": least, "step": patch}),
                ],
                "data": {"type": "float32"},
                "test_tensor": _file(files, _INPUT),
                "preprocessing": [
                    {
                        "id": "scale_range",
                        "kwargs": {
                            "axes": ["channel", "y", "x"],
                            "min_percentile": low,
                            "max_percentile": high,
                            "eps": _EPSILON,
                        },
                    }
                ],
            }
        ],
        "outputs": [_output(card.heads[t], t, files) for t in tasks],
        "weights": {"onnx": {**_file(files, _WEIGHTS), "opset_version": opset}},
        "config": {"dinoscope": {"version": __version__, "card": card.to_json()}},
    }


def _output(spec: HeadSpec, task: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    count = 1 if spec.kind == "bins" else spec.channels
    names = list(spec.classes) if len(spec.classes) == count else []
    if task == "instance":
        names = list(_MAPS[:count])
    elif task == "depth":
        names = ["depth"]
    names = [_name(n).replace(" ", "_") for n in names] or [f"c{i}" for i in range(count)]
    axes: list[dict[str, Any]] = [{"type": "batch"}, {"type": "channel", "channel_names": names}]
    if not spec.pooled:
        for axis in ("y", "x"):
            axes.append(_space(axis, {"tensor_id": "image", "axis_id": axis}))
    return {
        "id": task,
        "description": f"{task}: {', '.join(names)}",
        "axes": axes,
        "data": {"type": "float32"},
        "test_tensor": _file(files, f"test_{task}.npy"),
    }


def _space(axis: str, size: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "space", "id": axis, "size": dict(size)}


def _file(files: Mapping[str, bytes], name: str) -> dict[str, str]:
    return {"source": name, "sha256": hashlib.sha256(files[name]).hexdigest()}


def _name(text: str) -> str:
    """Letters, digits and what the specification allows beside them."""
    return "".join(c if c.isalnum() or c in "_+- ()" else "_" for c in text)[:120] or "model"


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array, np.float32), allow_pickle=False)
    return buffer.getvalue()


def _documentation(card: ModelCard) -> str:
    heads = "\n".join(
        f"- `{task}`: {', '.join(spec.classes) or spec.kind} {spec.unit}".rstrip()
        for task, spec in card.heads.items()
    )
    size = f"about {card.diameter_px:.0f} px" if card.diameter_px else "as in training"
    return f"""# {card.name}

{card.description or "A model made with dinoscope."}

A DINOv2 vision transformer with its adapter merged, and these outputs:

{heads}

Objects should be {size} across: rescale images first. Objects are cut from the instance maps by a
seeded watershed; dinoscope does both.

# Validation

Compare its objects with a few annotated images of your own before you rely on it.
"""
