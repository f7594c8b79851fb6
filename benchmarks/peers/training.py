"""Train a peer's U-Net for some minutes, on the crops that the embedded model learns from."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from benchmarks.peers.unet import UNet
from benchmarks.settings import say, write_table
from benchmarks.train_embedded import DIAMETER_PX, NORMALIZATION, WEIGHTS
from dinoscope.arrays.axes import read_plane
from dinoscope.arrays.files import read_image
from dinoscope.arrays.labels import typical_diameter
from dinoscope.arrays.metrics import average_precision
from dinoscope.arrays.normalize import limits, to_model_input
from dinoscope.arrays.resample import resample, scaled_shape
from dinoscope.engine.augment import Augmentation
from dinoscope.engine.batches import Batch, BatchSource, CropPlan, batch_stream
from dinoscope.engine.dataset import ImageSet, TrainingImage

CROP_PX = 224
BATCH = 8
LEARNING_RATE = 1e-3
WARMUP = 0.05
CHECKPOINT_S = 60.0
LOOKS = 6


class PeerBatches(BatchSource):
    """Crops with the targets of a peer, made where crops are made."""

    def __init__(self, sets: list[ImageSet], plan: CropPlan, seed: int, method: ModuleType) -> None:
        super().__init__(sets, plan, BATCH, seed)
        self.method = method

    def __getitem__(self, step: int) -> Batch:
        batch = super().__getitem__(step)
        rows, ids = batch.truths["semantic"]
        made = np.stack([self.method.targets(plane.numpy()) for plane in ids])
        return Batch(step, batch.pixels, {"peer": (rows, torch.from_numpy(made))}, batch.names)


def read(data: Path, row: dict[str, str]) -> TrainingImage:
    """An image of dsb2018 at its own scale, normalised as for the embedded model.

    Its ids are given as classes, whose crops come back as they are, without any task's targets.
    """
    folder = data / "dsb2018"
    image = read_image(next((folder / "images").glob(f"{row['id']}.*")))
    pixels = to_model_input(read_plane(image, ()), limits(image, NORMALIZATION), NORMALIZATION)
    ids = read_plane(read_image(folder / "labels" / f"{row['id']}.tif"), ())[0].astype(np.int32)
    group = row.get("group") or row["id"]
    return TrainingImage(
        row["id"], group, pixels.astype(np.float16), {"semantic": ids}, typical_diameter(ids)
    )


def crop_plan(known_diameter: bool) -> CropPlan:
    """Native scale with jitter, or every image brought to one diameter."""
    diameter = DIAMETER_PX if known_diameter else None
    return CropPlan(CROP_PX, diameter, 1.0, Augmentation())


@torch.inference_mode()
def predict(
    net: UNet, method: ModuleType, image: TrainingImage, plan: CropPlan, **decoding: float
) -> np.ndarray:
    """Ids of a whole image in its own pixels; `decoding` is handed to the method's ``decode``."""
    shape = image.pixels.shape[1:]
    pixels = resample(image.pixels.astype(np.float32), scaled_shape(shape, plan.zoom_of(image)))
    height, width = pixels.shape[1:]
    pad = ((0, 0), (0, -height % 16), (0, -width % 16))
    x = torch.from_numpy(np.pad(pixels, pad, mode="symmetric"))[None]
    raw = net(x)[0, :, :height, :width].float().numpy()
    ids = method.decode(raw, **decoding)
    rows = ((np.arange(shape[0]) + 0.5) * height / shape[0]).astype(int)
    columns = ((np.arange(shape[1]) + 0.5) * width / shape[1]).astype(int)
    return np.asarray(ids[rows[:, None], columns])


def best_threshold(
    net: UNet, method: ModuleType, images: list[TrainingImage], plan: CropPlan
) -> dict[str, float]:
    """The method's threshold that is best on training images, where it has several."""
    found = {}
    for threshold in getattr(method, "THRESHOLDS", ()):
        values = [
            average_precision(
                np.asarray(i.targets["semantic"]),
                predict(net, method, i, plan, threshold=threshold),
                (0.5,),
            )
            for i in images
        ]
        found[threshold] = float(np.mean(values))
    return {"threshold": max(found, key=lambda t: found[t])} if found else {}


def train(
    method: ModuleType,
    images: dict[str, list[TrainingImage]],
    looked_at: list[TrainingImage],
    *,
    minutes: float,
    plan: CropPlan,
    output: Path,
    seed: int,
    dtype: torch.dtype,
) -> tuple[UNet, dict[str, Any]]:
    """The trained net, its steps and crops per second; goes on from ``output.ckpt`` where it is.

    Looking at validation images (for the curve, beside the output as CSV) is not counted.
    """
    torch.manual_seed(seed)
    net = UNet(method.CHANNELS).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE, weight_decay=0.02)
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "waited": 0.0, "curve": []}
    checkpoint = output.with_suffix(".ckpt")
    if checkpoint.exists():
        held = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(held["net"])
        optimizer.load_state_dict(held["optimizer"])
        state = json.loads(held["state"])
        say(f"goes on from step {state['step']}")
    sets = [ImageSet(name, part, WEIGHTS[name]) for name, part in sorted(images.items())]
    batches = batch_stream(PeerBatches(sets, plan, seed, method), state["step"], 1)
    budget = minutes * 60
    saved, losses = time.monotonic(), []
    while state["seconds"] < budget:
        begun = time.monotonic()
        batch = next(batches)
        state["waited"] += time.monotonic() - begun
        share = state["seconds"] / budget
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(
                share / WARMUP + 0.01, 0.5 + 0.5 * np.cos(np.pi * share)
            )
        net.train()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            raw = net(batch.pixels.contiguous(memory_format=torch.channels_last))
        value = method.loss(raw.float(), batch.truths["peer"][1])
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        losses.append(float(value.detach()))
        state["step"] += 1
        state["seconds"] += time.monotonic() - begun
        if state["seconds"] >= budget * (len(state["curve"]) + 1) / LOOKS:
            _look(net.eval(), method, looked_at, plan, state, losses)
            losses = []
            write_table(output.with_suffix(".csv"), state["curve"])
        if time.monotonic() - saved > CHECKPOINT_S:
            held = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(held | {"state": json.dumps(state)}, checkpoint)
            saved = time.monotonic()
    facts = {"steps": state["step"], "seconds": state["seconds"]}
    facts["crops_per_s"] = state["step"] * BATCH / max(state["seconds"], 1e-9)
    facts["share_waiting_for_crops"] = state["waited"] / max(state["seconds"], 1e-9)
    return net.eval(), facts


def _look(
    net: UNet,
    method: ModuleType,
    images: list[TrainingImage],
    plan: CropPlan,
    state: dict[str, Any],
    losses: list[float],
) -> None:
    found = [
        average_precision(np.asarray(i.targets["semantic"]), predict(net, method, i, plan), (0.5,))
        for i in images
    ]
    entry = {"step": state["step"], "seconds": round(state["seconds"], 1)}
    entry |= {"loss": float(np.mean(losses)), "val_ap50": float(np.mean(found))}
    state["curve"].append(entry)
    say(", ".join(f"{k} {v:.4g}" for k, v in entry.items()))
