"""A training step from kept tokens against plain steps: the project's own loop, timed.

ViT-S/14 with random weights, eight crops of 224, LoRA of rank 8 on the same layers and the same
semantic head on both sides.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import Dataset

from benchmarks.rows import Row
from benchmarks.settings import Settings
from dinoscope.config import TrainOptions
from dinoscope.engine.batches import Batch
from dinoscope.engine.cached import token_pool
from dinoscope.engine.fit import FitOptions, fit
from dinoscope.models.adapter import add_lora
from dinoscope.models.device import precision_for, set_threads
from dinoscope.models.model import Model
from dinoscope.tasks.base import task

BACKBONE = "dinov2_vits14"
CROPS, SIDE, CLASSES, RANK = 8, 224, 3, 8
STEPS = 6


class _Crops(Dataset[Batch]):
    """The same crops at every step, so that only the step is timed."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self._pixels = torch.rand(CROPS, 3, SIDE, SIDE)
        self._truth = torch.randint(0, CLASSES, (CROPS, SIDE, SIDE))

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, step: int) -> Batch:
        truths = {"semantic": (torch.arange(CROPS), self._truth)}
        return Batch(step, self._pixels, truths, tuple(f"crop {i}" for i in range(CROPS)))


def _model(blocks: str | int | None) -> Model:
    classes = ("background", "a", "b")
    model = Model.fresh(BACKBONE, {"semantic": task("semantic").head_spec(classes)}, seed=0)
    if blocks is None:
        for parameter in model.backbone.parameters():
            parameter.requires_grad_(False)
    else:
        add_lora(model, rank=RANK, blocks=blocks)
    return model


def _ours(tune: str, dtype: torch.dtype | None, cached: bool) -> Callable[[], float]:
    """A step of `fit` at a time: its seconds. Steps that drew new crops are passed over."""
    heads = tune == "heads"
    model = _model(None if heads else int(tune.partition(":")[2]) if ":" in tune else "all")
    options = TrainOptions(tune=tune)
    pool = token_pool(model, options, 1, device="cpu", autocast=dtype) if cached else None
    settings = FitOptions(None, 10**6, 1e-4, 0.01, frozen_backbone=heads, autocast=dtype, workers=0)
    steps = fit(model, _Crops(), settings, pool=pool)  # type: ignore[arg-type]

    def step() -> float:
        while True:
            fresh = pool.fresh_steps if pool else 0
            begun = time.perf_counter()
            next(steps)
            taken = time.perf_counter() - begun
            if pool is None or (pool.fresh_steps == fresh and pool.reused_steps > 1):
                return taken

    return step


def _plain(blocks: str | None, dtype: torch.dtype | None) -> Callable[[], float]:
    """A step as peft's examples have it: whole network, loss, backward, AdamW."""
    model = _model(blocks).train()
    batch = _Crops()[0]
    truth = batch.truths["semantic"][1]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def step() -> float:
        begun = time.perf_counter()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            with torch.set_grad_enabled(blocks is not None):
                features = model.encode(batch.pixels)
            raw = model.decode_dense(features, batch.pixels, ["semantic"])["semantic"]
        loss = task("semantic").loss(raw, truth, {})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return time.perf_counter() - begun

    return step


def lora_rows(settings: Settings) -> Iterator[Row]:
    """LoRA in the last blocks and heads alone from kept tokens, against plain steps."""
    set_threads(settings.threads)
    half: Any = precision_for("cpu")
    half = None if half == torch.float32 else half
    works = {
        "last": _ours("lora-last:4", half, cached=True),
        "heads": _ours("heads", half, cached=True),
        "fp32": _plain("all", None),
        "bf16": _plain("all", torch.bfloat16),
        "frozen": _plain(None, None),
        "frozen bf16": _plain(None, torch.bfloat16),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(STEPS + 1):
        for name, step in works.items():
            taken = step()
            if turn:  # the first only warms up
                times[name].append(taken)
    middle = {name: statistics.median(values) for name, values in times.items()}
    what = "LoRA step, last 4 blocks from kept tokens"
    yield Row(f"{what}, ms", 1e3 * middle["last"])
    yield Row(
        f"{what}: times faster than peft in all blocks, fp32 (more)",
        middle["fp32"] / middle["last"],
        must=4.0,
        aim=8.0,
        rival_value=middle["fp32"],
    )
    yield Row(
        f"{what}: times faster than peft in all blocks, bf16 autocast (more)",
        middle["bf16"] / middle["last"],
        must=2.0,
        aim=3.0,
        rival_value=middle["bf16"],
    )
    yield Row("heads on kept tokens, step, ms", 1e3 * middle["heads"])
    yield Row(
        "heads on kept tokens: times faster than a frozen forward each step, fp32 (more)",
        middle["frozen"] / middle["heads"],
        must=15.0,
        aim=40.0,
        rival_value=middle["frozen"],
    )
    yield Row(
        "heads on kept tokens: times faster than a frozen forward each step, bf16 (more)",
        middle["frozen bf16"] / middle["heads"],
        rival_value=middle["frozen bf16"],
    )
