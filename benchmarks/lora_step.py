"""A training step from kept tokens against plain steps: the project's own loop, timed.

ViT-S/14 with random weights, eight crops of 224, LoRA of rank 8 on the same layers and the same
head on both sides: the dense one of semantic classes, all of it trained, and for heads alone also
the two heads of image classes.
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
from dinoscope.engine.improve.warm import BATCH, Cells, head_step
from dinoscope.models.adapter import add_lora
from dinoscope.models.card import HeadSpec
from dinoscope.models.device import precision_for, set_threads
from dinoscope.models.heads import pool_tokens
from dinoscope.models.model import Model
from dinoscope.tasks.base import task
from dinoscope.tasks.semantic import pixel_counts

BACKBONE = "dinov2_vits14"
CROPS, SIDE, CLASSES, RANK = 8, 224, 3, 8
STEPS = 6
#: Heads that are trained alone: what they are called in the rows, and their kind.
DENSE = ("", "dense")
POOLED = ("image classes by a linear head", "pooled")
DETAIL = ("image classes by the head with pixel features", "pooled-detail")


def _task(kind: str) -> str:
    return "semantic" if kind == "dense" else "classification"


class _Crops(Dataset[Batch]):
    """The same crops at every step, so that only the step is timed."""

    def __init__(self, kind: str = "dense") -> None:
        torch.manual_seed(0)
        self._pixels = torch.rand(CROPS, 3, SIDE, SIDE)
        self._task = _task(kind)
        shape = (CROPS, SIDE, SIDE) if kind == "dense" else (CROPS,)
        self._truth = torch.randint(0, CLASSES, shape)

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, step: int) -> Batch:
        truths = {self._task: (torch.arange(CROPS), self._truth)}
        return Batch(step, self._pixels, truths, tuple(f"crop {i}" for i in range(CROPS)))


def _model(blocks: str | int | None, kind: str = "dense") -> Model:
    spec = HeadSpec(kind, CLASSES, ("background", "a", "b"))
    model = Model.fresh(BACKBONE, {_task(kind): spec}, seed=0)
    if blocks is None:
        for parameter in model.backbone.parameters():
            parameter.requires_grad_(False)
    else:
        add_lora(model, rank=RANK, blocks=blocks)
    return model


def _ours(
    tune: str, dtype: torch.dtype | None, cached: bool, kind: str = "dense"
) -> Callable[[], float]:
    """A step of `fit` at a time: its seconds. Steps that drew new crops are passed over."""
    heads = tune == "heads"
    model = _model(None if heads else int(tune.partition(":")[2]) if ":" in tune else "all", kind)
    options = TrainOptions(tune=tune)
    pool = token_pool(model, options, 1, device="cpu", autocast=dtype) if cached else None
    settings = FitOptions(None, 10**6, 1e-4, 0.01, frozen_backbone=heads, autocast=dtype, workers=0)
    steps = fit(model, _Crops(kind), settings, pool=pool)  # type: ignore[arg-type]

    def step() -> float:
        while True:
            fresh = pool.fresh_steps if pool else 0
            begun = time.perf_counter()
            next(steps)
            taken = time.perf_counter() - begun
            if pool is None or (pool.fresh_steps == fresh and pool.reused_steps > 1):
                return taken

    return step


def _plain(
    blocks: str | None,
    dtype: torch.dtype | None,
    kind: str = "dense",
    *,
    head_only: bool = False,
) -> Callable[[], float]:
    """A step as peft's examples have it: whole network, loss, backward, AdamW."""
    model = _model(blocks, kind).train()
    batch = _Crops(kind)[0]
    name = _task(kind)
    truth = batch.truths[name][1]
    if head_only and model.decoder is not None:
        model.decoder.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def step() -> float:
        begun = time.perf_counter()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            with torch.set_grad_enabled(blocks is not None):
                features = model.encode(batch.pixels)
            if kind == "dense":
                raw = model.decode_dense(features, batch.pixels, [name])[name]
            else:
                raw = model.decode_pooled(
                    pool_tokens(model.pooled_features(features, batch.pixels))
                )
        loss = task(name).loss(raw, truth, {})
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
    middle = _medians(works)
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
    yield from _alone_rows(half)
    yield from _class_rows(half)


def _alone_rows(half: torch.dtype | None) -> Iterator[Row]:
    """The dense head alone on kept maps, as *Improve* begins new classes: its steps over all cells
    that are kept of a batch, against a frozen forward of that batch and a step of the same head."""
    middle = _medians(
        {
            "ours": _alone(half),
            "frozen": _plain(None, None, head_only=True),
            "frozen bf16": _plain(None, torch.bfloat16, head_only=True),
        }
    )
    name = f"dense head alone on kept maps, once over the cells of {CROPS} crops"
    yield Row(f"{name}, ms", 1e3 * middle["ours"])
    yield from _against_frozen(name, middle)


def _against_frozen(name: str, middle: dict[str, float]) -> Iterator[Row]:
    """How many times faster ``ours`` is than ``frozen`` and ``frozen bf16``."""
    for way, other, must, aim in (
        ("fp32", "frozen", 15.0, 40.0),
        ("bf16", "frozen bf16", None, None),
    ):
        yield Row(
            f"{name}: times faster than a frozen forward, {way} (more)",
            middle[other] / middle["ours"],
            must=must,
            aim=aim,
            rival_value=middle[other],
        )


def _alone(dtype: torch.dtype | None) -> Callable[[], float]:
    """Seconds of the steps in which the head sees each kept cell of a batch once."""
    model = _model(None)
    batch = _Crops()[0]
    truth = batch.truths["semantic"][1]
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is not None):
        joined = model.decoder(model.encode(batch.pixels), batch.pixels)  # type: ignore[misc]
    cells = Cells(0)
    cells.add(joined.to(dtype or torch.float32), truth, pixel_counts(truth, {}))
    whole = cells.whole()
    head = model.heads["semantic"].train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-4)

    def step() -> float:
        begun = time.perf_counter()
        order = torch.randperm(len(whole[0]))
        for chosen in order.split(BATCH):
            head_step(head, optimizer, *(t[chosen] for t in whole))
        return time.perf_counter() - begun

    return step


def _class_rows(half: torch.dtype | None) -> Iterator[Row]:
    """Heads of image classes alone: their step has no maps at full resolution to train."""
    for name, kind in (POOLED, DETAIL):
        works = {
            "ours": _ours("heads", half, cached=True, kind=kind),
            "frozen": _plain(None, None, kind),
            "frozen bf16": _plain(None, torch.bfloat16, kind),
        }
        middle = _medians(works)
        yield Row(f"{name} on kept tokens, step, ms", 1e3 * middle["ours"])
        yield from _against_frozen(f"{name} on kept tokens", middle)


def _medians(works: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Median seconds of each, in turns; the first turn only warms up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(STEPS + 1):
        for name, step in works.items():
            taken = step()
            if turn:
                times[name].append(taken)
    return {name: statistics.median(values) for name, values in times.items()}
