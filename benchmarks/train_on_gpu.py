"""Train the embedded model on a graphics card: a million crops in minutes.

    python -m benchmarks.train_on_gpu --data DATA --minutes 6 --output runs/embedded.dinoscope

The same sets, losses and heads as :mod:`benchmarks.train_embedded`, with crops cut and varied on
the card (:mod:`benchmarks.atlas`) and images of the generator made by all other processors
meanwhile. ``--exclude`` leaves sets out (twins), ``--adapters`` also trains the classifiers that
ship beside it. Writes the model, a CSV log and a checkpoint a minute, from which ``--resume`` goes
on.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.atlas import Atlas, pack, varied
from benchmarks.cells import (
    Cells,
    CellSettings,
    adapt,
    calibrate,
    classifier,
    describe,
    drop_paths,
    mixed,
    rate,
)
from benchmarks.generator import Generator
from benchmarks.retrain import VARIANTS, zero
from benchmarks.settings import write_table
from benchmarks.train_adapters import SETS
from benchmarks.train_embedded import (
    CLASSIFIED,
    CROP_PX,
    DIAMETER_PX,
    fresh,
    load,
    model_card,
    single_cells,
)
from dinoscope.models.checkpoint import load_model, save_model
from dinoscope.models.device import import_torch
from dinoscope.models.heads import pool_tokens
from dinoscope.models.model import Model
from dinoscope.tasks.base import task

torch = import_torch()
F = torch.nn.functional

#: Crops of a step by kind. Surfaces come first, then what has classes only, then objects: each
#: head then sees one slice of the batch.
SHARES = {
    "surface": 0.10,
    "filaments": 0.015,
    "membranes": 0.015,
    "fluo_small": 0.15,
    "fluo_large": 0.14,
    "histology_purple": 0.11,
    "histology_white": 0.06,
    "brightfield_gray": 0.03,
    "fluo_tissue": 0.02,
    "usiigaci": 0.08,
    "nuclei": 0.03,
    "touching": 0.04,
    "rods": 0.08,
    "phase": 0.04,
    "brightfield": 0.03,
    "tissue": 0.06,
}
DEPTH, NO_OBJECTS = ("surface",), ("filaments", "membranes")
#: Probability of a crop far from the training scale, where it is hardest to tell, and elsewhere.
FAR = {
    "usiigaci": 0.5,
    "phase": 0.45,
    "brightfield": 0.4,
    "tissue": 0.35,
    "histology_purple": 0.35,
    "histology_white": 0.35,
    "brightfield_gray": 0.4,
    "fluo_tissue": 0.4,
    "surface": 0.0,
    "filaments": 0.0,
    "membranes": 0.0,
}
FAR_ELSEWHERE = 0.25
LOSS_WEIGHTS = {"instance": 1.0, "semantic": 0.3, "depth": 1.0, "classification": 0.3}
CLASS_PX = 112
SLOT_PX = 256


@dataclass
class Settings:
    """How a model is trained; `seconds` include what compiling takes."""

    seconds: float
    batch: int = 128
    cells: int = 64
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    drop_path: float = 0.1
    average: float = 0.9995
    warmup: float = 0.04
    device: str = "cuda"
    compiled: bool = False
    seed: int = 0
    log_every: int = 100


@dataclass
class Images:
    """Numbers in the atlas by kind; those of generated kinds grow and change while training."""

    atlas: Atlas
    numbers: dict[str, list[int]] = field(default_factory=dict)

    def draw(self, kinds: Sequence[str], counts: Sequence[int], rng: np.random.Generator):
        """Image numbers of a batch, and how likely each is seen far from the training scale."""
        chosen, far = [], []
        for kind, count in zip(kinds, counts, strict=True):
            chosen.append(rng.choice(self.numbers[kind], count))
            far.append(np.full(count, FAR.get(kind, FAR_ELSEWHERE)))
        return np.concatenate(chosen), np.concatenate(far)


def composition(kinds: Sequence[str], batch: int) -> dict[str, int]:
    """Crops of each kind in a step: their shares, rounded so that they add up, at least one."""
    weight = np.array([SHARES[k] for k in kinds])
    exact = weight / weight.sum() * batch
    counts = np.maximum(1, np.floor(exact)).astype(int)
    while counts.sum() != batch:
        step = 1 if counts.sum() < batch else -1
        gap = (exact - counts) * step
        if step < 0:
            gap[counts <= 1] = -np.inf
        counts[int(gap.argmax())] += step
    return dict(zip(kinds, counts.tolist(), strict=True))


def groups(model: Model, decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels only."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in wanted if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in wanted if p.ndim < 2], "weight_decay": 0.0},
    ]


def dense_forward(model: Model, depth_rows: int, class_rows: int) -> Callable:
    """Pixels to raw maps: depth of the first rows, objects of the last, classes of all but the
    first."""

    def forward(pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = model.backbone(pixels)
        joined = model.decoder(features, pixels.contiguous(memory_format=torch.channels_last))
        return (
            model.heads["depth"](joined[:depth_rows]),
            model.heads["semantic"](joined[depth_rows:]),
            model.heads["instance"](joined[depth_rows + class_rows :]),
        )

    return forward


def train(
    model: Model, images: Images, cells: Sequence[Cells], settings: Settings, checkpoint: Path
) -> Iterator[dict[str, float]]:
    """Train in place for `settings.seconds`; yields rows of the log, the last with averaged
    weights in `model`."""
    s = settings
    device = s.device
    model.to(device).train()
    model.decoder.to(memory_format=torch.channels_last)
    drop_paths(model, s.drop_path)
    kinds = [k for k in SHARES if images.numbers.get(k)]
    kinds.sort(key=lambda k: (k not in DEPTH, k not in NO_OBJECTS))
    counts = composition(kinds, s.batch)
    depth_rows = sum(counts[k] for k in kinds if k in DEPTH)
    class_rows = sum(counts[k] for k in kinds if k in NO_OBJECTS)
    forward = dense_forward(model, depth_rows, class_rows)
    if s.compiled:
        forward = torch.compile(forward)
    optimizer = torch.optim.AdamW(
        groups(model, s.weight_decay),
        lr=s.learning_rate,
        betas=(0.9, 0.98),
        fused=device != "cpu",
    )
    parameters = [p for p in model.parameters() if p.requires_grad]
    averaged = [p.detach().clone() for p in parameters]
    step, spent = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        for own, kept in zip(averaged, state["averaged"], strict=True):
            own.copy_(kept)
        step, spent = int(state["step"]), float(state["seconds"])
    begun = time.perf_counter() - spent
    saved = time.perf_counter()
    sums: dict[str, torch.Tensor] = {}
    noted = (time.perf_counter(), step)
    rng = np.random.default_rng([s.seed, step])
    while (elapsed := time.perf_counter() - begun) < s.seconds:
        now = s.learning_rate * rate(elapsed / s.seconds, s.warmup)
        for group in optimizer.param_groups:
            group["lr"] = now
        numbers, far = images.draw(kinds, [counts[k] for k in kinds], rng)
        with torch.no_grad():
            crop = images.atlas.crops(numbers, far, CROP_PX, rng)
            pixels = varied(crop["pixels"])
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            depth, semantic, instance = forward(pixels)
        losses = {
            "semantic": semantic_loss(semantic, crop["semantic"][depth_rows:]),
            "instance": instance_loss(
                instance,
                *(crop[n][depth_rows + class_rows :] for n in ("maps", "known", "log_size")),
            ),
        }
        if depth_rows:
            truth = crop["depth"][:depth_rows]
            losses["depth"] = task("depth").loss(depth, truth, {"low": 0.0, "high": 1.0})
        if cells:
            losses["classification"] = class_loss(model, cells, s)
        total = sum(LOSS_WEIGHTS[n] * v for n, v in losses.items())
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        step += 1
        share = min(s.average, (1 + step) / (10 + step))
        torch._foreach_lerp_(averaged, [p.detach() for p in parameters], 1 - share)
        for name, value in losses.items():
            sums[name] = sums.get(name, 0) + value.detach()
        if step % s.log_every == 0:
            means = {f"loss_{n}": round(float(v) / s.log_every, 4) for n, v in sums.items()}
            if not all(np.isfinite(v) for v in means.values()):
                raise FloatingPointError(f"the loss at step {step} is {means}")
            clock = time.perf_counter()
            speed = (step - noted[1]) * s.batch / (clock - noted[0])
            sums, noted = {}, (clock, step)
            made = sum(len(images.numbers[k]) for k in kinds)
            yield {
                "seconds": round(clock - begun, 1),
                "step": step,
                "lr": round(now, 6),
                "crops_per_s": round(speed),
                "images": made,
                **means,
            }
            if clock - saved > 60:
                saved = clock
                torch.save(
                    {
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "averaged": averaged,
                        "step": step,
                        "seconds": clock - begun,
                    },
                    checkpoint,
                )
    with torch.no_grad():
        for parameter, value in zip(parameters, averaged, strict=True):
            parameter.copy_(value)
    drop_paths(model, 0.0)
    model.eval()
    yield {"seconds": round(time.perf_counter() - begun, 1), "step": step}


def instance_loss(
    raw: torch.Tensor, maps: torch.Tensor, known: torch.Tensor, size: torch.Tensor
) -> torch.Tensor:
    """`tasks.instance` on maps that were cut with the crop."""
    target = torch.empty(len(raw), 5, *raw.shape[2:], device=raw.device)
    inside = maps[:, 0] > 0.5
    target[:, 0] = inside
    target[:, 1:3] = maps[:, 1:3] * inside[:, None]
    target[:, 3] = size[:, None, None]
    target[:, 4] = known
    return task("instance").loss(raw, target, {})


def semantic_loss(raw: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """`tasks.semantic`."""
    return task("semantic").loss(raw, truth, {})


def class_loss(model: Model, cells: Sequence[Cells], s: Settings) -> torch.Tensor:
    """Cross-entropy of single cells with mixed and smoothed truths."""
    batches = [(c.batch(s.cells // len(cells)), c.offset) for c in cells]
    classes = model.card.heads["classification"].channels
    pixels, soft = mixed(
        torch.cat([pixels for (pixels, _), _ in batches]),
        torch.cat([truth + offset for (_, truth), offset in batches]),
        classes,
    )
    with torch.autocast(pixels.device.type, torch.bfloat16):
        pooled = pool_tokens(model.pooled_features(model.backbone(pixels), pixels))
    logits = model.decode_pooled(pooled)
    return F.cross_entropy(logits.float(), soft)


def real_images(data: Path, exclude: set[str], device: str, spare: int) -> tuple[Images, dict]:
    """The annotated sets in an atlas with room for `spare` more pixels; validation images."""
    sets, validation = load(data, exclude)
    packed = {
        s.name: [pack(i, DIAMETER_PX) for i in s.images] for s in sets if hasattr(s, "images")
    }
    need = sum(2 * p.maps.shape[0] * p.maps.shape[1] for ps in packed.values() for p in ps)
    images = Images(Atlas(device, need + spare))
    for name, some in packed.items():
        images.numbers[name] = [images.atlas.add(p) for p in some]
    return images, validation


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--exclude", action="append", default=[])
    parser.add_argument("--adapters", type=float, default=0.0, help="minutes for each classifier")
    parser.add_argument("--start", type=Path, help="model whose weights are gone on from")
    parser.add_argument("--variant", choices=VARIANTS, default="both")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--drop-path", type=float, default=0.1)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--processes", type=int, default=14, help="that make images")
    parser.add_argument("--made", type=int, default=12_000, help="generated images kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    run(parser.parse_args())


def run(options: argparse.Namespace) -> None:
    """Train what the command line asks for."""
    torch.manual_seed(options.seed)
    exclude = set(options.exclude)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    kinds = [k for k in SHARES if k not in exclude]
    # Processes that make images start before the card is touched: they are forked.
    with Generator(kinds, SHARES, SLOT_PX, options.made, options.processes, options.seed) as maker:
        begun = time.perf_counter()
        cells = single_cells(options.data, exclude)
        spare = int(1.34 * options.made * SLOT_PX**2)
        images, _ = real_images(options.data, exclude, options.device, spare)
        print(f"read in {time.perf_counter() - begun:.0f} s", flush=True)
        maker.feed(images.atlas, images.numbers)
        if options.start:
            model = load_model(options.start, device="cpu")
        else:
            model = fresh(options.seed)
        if cells.classes:
            model.add_head("classification", task("classification").head_spec(cells.classes))
        zero(model, options.variant)
        held = [Cells(cells, n, options.device) for n in CLASSIFIED if n in cells.validation]
        settings = Settings(
            options.minutes * 60,
            batch=options.batch,
            learning_rate=options.learning_rate,
            drop_path=options.drop_path,
            device=options.device,
            compiled=options.compile,
            seed=options.seed,
        )
        checkpoint = options.output.with_suffix(".ckpt")
        if not options.resume:
            checkpoint.unlink(missing_ok=True)
        log = options.output.with_suffix(".csv")
        rows: list[dict[str, Any]] = []
        for row in train(model, images, held, settings, checkpoint):
            rows.append(row)
            print(row, flush=True)
            write_table(log, rows)
    finish(model, options, rows, cells, held)


def finish(model: Model, options: argparse.Namespace, rows, cells, held) -> None:
    """Write the model, and its adapters where they are asked for."""
    model.to("cpu").to(memory_format=torch.contiguous_format)
    training = {k: v for k, v in vars(options).items() if k not in ("device", "processes")}
    shipped = model_card(model, state=rows[-1], training=training)
    save_model(shipped, options.output, half=True)
    for part in held if options.adapters else ():
        short, (_, description, data) = next((n, v) for n, v in SETS.items() if v[0] == part.folder)
        made = classifier(options.output, part, copy.deepcopy(model).to(options.device))
        adapt(made, part, CellSettings(60 * options.adapters, batch=128))
        calibrate(made, part)
        describe(made, cells, part, f"embedded-{short}", description, data)
        target = options.output.with_name(f"embedded-{short}.dinoscope")
        save_model(made.to("cpu"), target, half=True)


if __name__ == "__main__":
    main()
