"""Write a model as ONNX, OpenVINO or a bioimage.io package, and check what was written."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.engine.parity import (
    ACTIVATIONS,
    AP_TOLERANCE,
    INT8_TOLERANCE,
    Parity,
    calibration_tiles,
    compare,
    real_tiles,
)
from dinoscope.errors import InputError, MissingHeadError, ModelFileError, UsageError
from dinoscope.models import bioimage
from dinoscope.models.export import onnx_model, write_bytes, write_onnx, write_openvino
from dinoscope.models.model import Model
from dinoscope.models.quantize import open_onnx, open_openvino, to_int8
from dinoscope.models.runtime.graph import DEFAULT_OPSET, check_opset
from dinoscope.types import Progress

FORMATS = {"onnx": ".onnx", "openvino": ".xml", "bioimage.io": ".zip"}
PRECISIONS = ("fp32", "fp16", "int8")
#: Images that int8 is calibrated on, at most.
MOST_CALIBRATION = 32
#: Tile of calibration and of the check, in pixels.
TILE_PX = 252


@dataclass(frozen=True)
class ExportOptions:
    """What to write.

    Parameters
    ----------
    format : str
        ``onnx``, ``openvino`` or ``bioimage.io``.
    tasks : tuple of str
        Heads to export; all when empty.
    precisions : tuple of str
        ``fp32``, ``fp16``, ``int8``; each becomes a file.
    opset : int
        At least 17.
    calibration : tuple of Path
        Images that int8 is calibrated on.
    threads : int
        CPU threads of the check; 0 = all.
    """

    format: str = "onnx"
    tasks: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp32",)
    opset: int = DEFAULT_OPSET
    calibration: tuple[Path, ...] = ()
    threads: int = 0

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise UsageError(f"format is {self.format!r}", expected=", ".join(FORMATS))
        unknown = [p for p in self.precisions if p not in PRECISIONS]
        if unknown or not self.precisions:
            raise UsageError(f"precision is {self.precisions!r}", expected=", ".join(PRECISIONS))
        if "int8" in self.precisions and not self.calibration:
            raise UsageError(
                "int8 was asked for without images to calibrate it on",
                hint="Give a folder of your own images with --calibrate.",
            )
        if self.format == "bioimage.io" and self.precisions != ("fp32",):
            raise UsageError("a bioimage.io package holds fp32 only", hint="Leave --precision out.")


@dataclass
class Exported:
    """A written file and how faithful it is. `accepted` is false where its objects differ."""

    precision: str
    path: Path
    megabytes: float
    parity: Parity
    accepted: bool
    files: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "precision": self.precision,
            "path": str(self.path),
            "megabytes": round(self.megabytes, 3),
            "accepted": self.accepted,
            **self.parity.to_json(),
        }


def export(
    model: Model, path: Path, options: ExportOptions
) -> Generator[Progress, None, list[Exported]]:
    """Write `model` at `path`; precisions but fp32 get a suffix before the file's own.

    Beside it ``NAME.json`` says how far each file is from the model.

    Parameters
    ----------
    model : Model
        On the CPU. An adapter is merged into a copy.
    path : Path
        With the format's suffix; its folder must exist.
    options : ExportOptions
        Format, heads, precisions.

    Raises
    ------
    MissingHeadError
        The model has no head, or not the one that was asked for.
    InputError
        The opset is too old or too new.
    ModelFileError
        What was written in fp32 does not say what the model says; it is not kept.
    OutputError
        It cannot be written.
    """
    suffix = FORMATS[options.format]
    if path.suffix != suffix:
        raise UsageError(f"output is {path.name!r}", expected=f"a name that ends in {suffix}")
    check_opset(options.opset)
    tasks = options.tasks or tuple(model.card.heads)
    if not tasks:
        raise MissingHeadError(
            f"model {model.card.name!r} has no head that could be exported",
            hint="Fine-tune it on a task first, or export another model.",
        )
    model.require_heads(tasks)
    model.eval()
    yield Progress("export", 0, len(options.precisions), message="looking at test images")
    tiles = real_tiles(model, TILE_PX)
    done: list[Exported] = []
    for number, precision in enumerate(options.precisions):
        yield Progress("export", number, len(options.precisions), message=precision)
        graph = _graph(model, tasks, precision, options)
        own = path if precision == "fp32" else path.with_suffix(f".{precision}{suffix}")
        data = graph.SerializeToString()
        if options.format == "openvino":
            write_openvino(graph, own, half=precision == "fp16")
            run = open_openvino(own, tasks, options.threads)
        else:
            run = open_onnx(data, tasks, options.threads)
        parity = compare(model, run, tasks, tiles)
        limit = INT8_TOLERANCE if precision == "int8" else AP_TOLERANCE
        accepted = parity.instance_ap_difference is None or parity.instance_ap_difference <= limit
        if precision == "fp32" and not accepted:
            raise ModelFileError(
                f"the exported file finds other objects than the model (AP differs by "
                f"{parity.instance_ap_difference:.4f}, at most {AP_TOLERANCE} is allowed)",
                hint="Please report this, with the model's card.",
            )
        if options.format == "onnx":
            write_onnx(graph, own)
        elif options.format == "bioimage.io":
            _write_package(model, tasks, data, options.opset, own, options.threads)
        files = [own, own.with_suffix(".bin")] if options.format == "openvino" else [own]
        size = sum(f.stat().st_size for f in files) / 1e6
        done.append(Exported(precision, own, size, parity, accepted, [f.name for f in files]))
    report = {
        "model": model.card.name,
        "format": options.format,
        "opset": options.opset,
        "tasks": list(tasks),
        "inputs": f"image (batch, 3, height, width), sides multiples of {model.backbone.patch}",
        "files": [e.to_json() for e in done],
    }
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    write_bytes(text.encode(), path.with_suffix(".json"))
    yield Progress("export", len(options.precisions), len(options.precisions))
    return done


def _graph(model: Model, tasks: Sequence[str], precision: str, options: ExportOptions) -> Any:
    # OpenVINO rounds weights itself when it writes them.
    half = precision == "fp16" and options.format != "openvino"
    # int8 is for speed on processors, where ONNX Runtime's own attention is the faster one.
    fused = precision == "int8" and options.format == "onnx"
    graph = onnx_model(model, tasks, ACTIVATIONS, opset=options.opset, half=half, fused=fused)
    if precision != "int8":
        return graph
    patch = model.backbone.patch
    side = TILE_PX // patch * patch
    tiles = calibration_tiles(model, options.calibration, side, MOST_CALIBRATION)
    return to_int8(graph, tiles)


def _write_package(
    model: Model, tasks: Sequence[str], data: bytes, opset: int, path: Path, threads: int
) -> None:
    from skimage.data import cell

    patch = model.backbone.patch
    low, high = bioimage.percentiles(model.card)
    height, width = 8 * patch, 10 * patch
    raw = np.repeat(cell()[200 : 200 + height, 150 : 150 + width][None, None], 3, 1)
    raw = raw.astype(np.float32)
    outputs = open_onnx(data, tasks, threads)(bioimage.prepare(raw, low, high))
    card = model.card.replace(heads={t: model.card.heads[t] for t in tasks})
    files = bioimage.package(card, data, opset, raw, outputs, patch=patch)
    bioimage.write_package(files, path)


def table(done: Sequence[Exported]) -> list[str]:
    """The files, their differences and their time, as lines of text."""
    lines = [
        f"{'file':<10} {'MB':>8} {'tile ms':>8} {'against first':>13} {'AP diff':>8}  "
        "errors, largest (mean)"
    ]
    for entry in done:
        p = entry.parity
        ratio = p.tile_ms / done[0].parity.tile_ms if done[0].parity.tile_ms else float("nan")
        ap = "-" if p.instance_ap_difference is None else f"{p.instance_ap_difference:.4f}"
        errors = ", ".join(f"{t} {p.max_error[t]:.2g} ({p.mean_error[t]:.2g})" for t in p.max_error)
        note = "" if entry.accepted else "  finds other objects: do not use"
        lines.append(
            f"{entry.precision:<10} {entry.megabytes:>8.1f} {p.tile_ms:>8.1f} {ratio:>12.2f}x "
            f"{ap:>8}  {errors}{note}"
        )
    return lines


def paths_in(folder: Path) -> tuple[Path, ...]:
    """Files of a folder, sorted; the folder's own file where it is one.

    Raises
    ------
    InputError
        There is nothing.
    """
    found = tuple(sorted(p for p in folder.iterdir() if p.is_file())) if folder.is_dir() else ()
    if folder.is_file():
        found = (folder,)
    if not found:
        raise InputError(f"{str(folder)!r} holds no images", expected="a folder of images")
    return found
