"""How fast a model is here: one network pass timed for sizes, batches and runtimes."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dinoscope.config import PredictOptions
from dinoscope.engine.dense import EncodedTiles, Runner
from dinoscope.engine.limits import is_memory
from dinoscope.engine.opening import open_runner
from dinoscope.errors import DeviceError, InputError
from dinoscope.models.device import describe
from dinoscope.models.model import Model
from dinoscope.models.runtime import records

#: Passes are timed until so many seconds have gone by, at least `LEAST` of them.
SECONDS = 3.0
LEAST = 5


@dataclass(frozen=True)
class Timing:
    """One row: a runtime, a size, a batch.

    Times are of a batch through backbone and dense heads, in milliseconds; `tokens_ms` is the
    backbone's median alone. `peak_mb` is what the process (on a card: the card) held at most.
    """

    runtime: str
    detail: str
    size: int
    batch: int
    median_ms: float
    p95_ms: float
    tokens_ms: float
    images_per_s: float
    mpx_per_s: float
    peak_mb: float | None
    passes: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def machine() -> dict[str, Any]:
    """What was measured on."""
    facts = describe()
    return {
        "processor": records.processor(),
        "cores": facts["cores"],
        "threads": facts["threads"],
        "device": facts["device"],
        "device_name": facts["name"],
        "system": sys.platform,
        "versions": records.versions(),
    }


def measure(
    model: Model,
    options: PredictOptions,
    sizes: Sequence[int],
    batches: Sequence[int],
    *,
    seconds: float = SECONDS,
) -> tuple[list[Timing], list[str]]:
    """Time a model with the runtime of `options`, for every size with every batch.

    Returns
    -------
    tuple
        The rows, and notes such as that a runtime was refused.

    Raises
    ------
    InputError
        A size is smaller than 8 patches, or a batch smaller than 1.
    DeviceError
        Memory does not suffice.
    """
    patch = model.backbone.patch
    for side in sizes:
        if side < 8 * patch:
            raise InputError(f"size is {side}", expected=f"at least {8 * patch} px")
    if min(batches) < 1:
        raise InputError(f"batch is {min(batches)}", expected="1 or more")
    runner, notes = open_runner(model, options)
    engine = runner.engine
    rows = []
    for side in sizes:
        for batch in batches:
            try:
                rows.append(_row(runner, side // patch * patch, batch, seconds))
            except (RuntimeError, MemoryError) as error:
                if not is_memory(error):
                    raise
                raise DeviceError(
                    f"there is not enough memory for {batch} images of {side} px",
                    hint="Give a smaller --batch or --size.",
                ) from error
    if engine is not None:
        notes += engine.notes
    return rows, notes


def _row(runner: Runner, side: int, batch: int, seconds: float) -> Timing:
    _forget_peak(runner.device)
    dense = [t for t, spec in runner.model.card.heads.items() if not spec.pooled]
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, 3, side, side, generator=generator).to(runner.device)
    tokens: list[float] = []
    whole: list[float] = []
    engine = runner.engine
    if engine is None:
        raise InputError("the runner has no engine", expected="one from open_runner")
    with torch.inference_mode():
        for turn in range(10_000):
            begun = time.perf_counter()
            features = engine.encode(x)
            _wait(runner.device)
            encoded = time.perf_counter()
            runner.decode(EncodedTiles((), x, features), dense)
            _wait(runner.device)
            ended = time.perf_counter()
            if turn == 0:
                continue  # the first prepares buffers
            tokens.append(encoded - begun)
            whole.append(ended - begun)
            if len(whole) >= LEAST and sum(whole) >= seconds:
                break
    median = float(np.median(whole))
    return Timing(
        runtime=engine.encoder.runtime,
        detail=engine.encoder.detail,
        size=side,
        batch=batch,
        median_ms=1000 * median,
        p95_ms=1000 * float(np.percentile(whole, 95)),
        tokens_ms=1000 * float(np.median(tokens)),
        images_per_s=batch / median,
        mpx_per_s=batch * side * side / 1e6 / median,
        peak_mb=_peak_mb(runner.device),
        passes=len(whole),
    )


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def _forget_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return  # the peak is then that of the whole process


def _peak_mb(device: str) -> float | None:
    if device == "cuda":
        return float(torch.cuda.max_memory_allocated() / 1e6)
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return None


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Rows as lines of text."""
    lines = [
        f"{'runtime':<30} {'size':>5} {'batch':>5} {'median ms':>9} {'p95 ms':>8} {'tokens':>8} "
        f"{'images/s':>8} {'Mpx/s':>7} {'peak MB':>8}"
    ]
    for r in rows:
        peak = "-" if r["peak_mb"] is None else f"{r['peak_mb']:.0f}"
        lines.append(
            f"{r['detail']:<30} {r['size']:>5} {r['batch']:>5} {r['median_ms']:>9.1f} "
            f"{r['p95_ms']:>8.1f} {r['tokens_ms']:>8.1f} {r['images_per_s']:>8.2f} "
            f"{r['mpx_per_s']:>7.2f} {peak:>8}"
        )
    return lines


def plot(rows: Sequence[dict[str, Any]], title: str) -> str:
    """Megapixels a second as bars, an SVG document."""
    from xml.sax.saxutils import escape

    colours = {"torch": "#4c72b0", "openvino": "#dd8452", "onnxruntime": "#55a868"}
    height, left, wide = 26, 270, 420
    most = max((r["mpx_per_s"] for r in rows), default=1.0) or 1.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + wide + 90}" '
        f'height="{height * len(rows) + 60}" font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="12" y="22" font-size="15">{escape(title)}</text>',
    ]
    for number, r in enumerate(rows):
        y = 40 + height * number
        length = wide * r["mpx_per_s"] / most
        label = escape(f"{r['detail']}, {r['batch']} × {r['size']}²")
        parts += [
            f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{label}</text>',
            f'<rect x="{left}" y="{y + 2}" width="{length:.1f}" height="{height - 8}" '
            f'fill="{colours.get(r["runtime"], "#777777")}"/>',
            f'<text x="{left + length + 6:.1f}" y="{y + 15}">{r["mpx_per_s"]:.2f} Mpx/s</text>',
        ]
    return "\n".join([*parts, "</svg>\n"])
