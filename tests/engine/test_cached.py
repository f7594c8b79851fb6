"""Training from kept tokens gives what training on the crops themselves gives."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from dinoscope.config import TrainOptions
from dinoscope.engine.batches import Batch
from dinoscope.engine.cached import LEAST_BATCHES, REFRESH_EVERY, TokenPool, token_pool
from dinoscope.engine.fit import FitOptions, losses_of
from dinoscope.models.adapter import add_lora
from dinoscope.models.model import Model
from dinoscope.tasks.base import task

SIDE = 56
TASKS = ("instance", "classification")


def model(tune: str) -> Model:
    heads = {
        "instance": task("instance").head_spec(()),
        "classification": task("classification").head_spec(("x", "y")),
    }
    made = Model.fresh("tiny-test", heads, seed=1)
    made.backbone.requires_grad_(False)
    if tune.startswith("lora"):
        add_lora(made, blocks=1, rank=2)
        for name, parameter in made.named_parameters():
            if "lora_B" in name:  # zero at first, which would hide errors below it
                torch.nn.init.normal_(parameter, std=0.1)
    return made


def crops(count: int = 4) -> Iterator[Batch]:
    rng = np.random.default_rng(0)
    for step in itertools.count():
        made = []
        for row in range(count):
            ids = np.zeros((SIDE, SIDE), np.int32)
            ids[8 : 24 + row, 8:30] = 1
            targets = {"instance": task("instance").targets(ids, 0.0)}
            if row % 2:
                targets["classification"] = np.asarray(row // 2 % 2, np.int64)
            made.append((rng.random((3, SIDE, SIDE)).astype(np.float16).astype("f4"), targets))
        yield Batch.gather(step, made, [f"{step}.{row}" for row in range(count)])


def pool_for(made: Model, start: int, **changes: float) -> TokenPool:
    settings = {"images": 1, "budget_mb": 100.0, "seed": 0, **changes}
    return TokenPool(made.backbone, start, **settings)


def losses_and_gradients(made: Model, batch: Batch, frozen: bool) -> dict[str, torch.Tensor]:
    made.zero_grad(set_to_none=True)
    options = FitOptions(None, 1, 1e-3, 0.0, frozen_backbone=frozen)
    losses = losses_of(made, batch, options, torch.device("cpu"))
    sum(losses.values()).backward()
    found = {n: v.detach() for n, v in losses.items()}
    return found | {n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("tune", ["heads", "lora-last:1"])
def test_kept_tokens_give_the_same_losses_and_gradients(tune: str) -> None:
    made = model(tune)
    depth = len(made.backbone.vit.blocks)
    start = depth if tune == "heads" else depth - 1
    pool = pool_for(made, start)
    stream = pool.stream(crops(), 0)
    batches = [next(stream) for _ in range(LEAST_BATCHES + 3)]
    reused = next(b for b in batches if b.step % REFRESH_EVERY and pool.reused_steps and b.step > 3)
    assert reused.tokens is not None
    cached = losses_and_gradients(made, reused, frozen=tune == "heads")
    plain = Batch(reused.step, reused.pixels, reused.truths, reused.names)
    direct = losses_and_gradients(made, plain, frozen=tune == "heads")
    assert set(cached) == set(direct)
    for name, value in direct.items():
        torch.testing.assert_close(cached[name], value, rtol=1e-3, atol=1e-4)


def test_crops_are_reused_and_renewed_in_turn() -> None:
    made = model("heads")
    pool = pool_for(made, len(made.backbone.vit.blocks))
    stream = pool.stream(crops(), 0)
    for _ in range(200):
        next(stream)
    assert pool.reused_steps > 4 * pool.fresh_steps
    assert len(pool.crops) == max(12, LEAST_BATCHES * 4)
    # The oldest have been replaced: none of the first batch is left.
    assert not [c for c in pool.crops if c.name.startswith("0.")]
    assert str(len(pool.crops)) in pool.note()


def test_memory_is_bounded() -> None:
    made = model("heads")
    pool = pool_for(made, len(made.backbone.vit.blocks), images=1000, budget_mb=2.0)
    stream = pool.stream(crops(), 0)
    for _ in range(40):
        next(stream)
    assert sum(c.nbytes for c in pool.crops) <= 2e6
    assert pool.reused_steps > 0


@pytest.mark.parametrize(
    ("tune", "cached"),
    [("heads", True), ("lora-last:1", True), ("lora-all", False), ("full", False)],
)
def test_tokens_are_kept_only_where_blocks_are_frozen(tune: str, cached: bool) -> None:
    made = model("heads")
    pool = token_pool(made, TrainOptions(tune=tune), 3, device="cpu", autocast=None)
    assert (pool is not None) == cached
    off = TrainOptions(tune=tune, token_cache_mb=0)
    assert token_pool(made, off, 3, device="cpu", autocast=None) is None
