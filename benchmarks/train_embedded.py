"""Train the embedded model: one documented, resumable command.

    python -m benchmarks.train_embedded --data DATA --minutes 90 --output runs/embedded.dinoscope

Reads only the sets whose licences permit shipped weights (DSB2018: CC0; Usiigaci and Chula-RBC-12:
MIT; imaging flow cytometry: BSD-3-Clause) plus the project's synthetic generator. Writes the model,
a CSV log beside it, and a checkpoint every minute (``--resume`` goes on from it; ``--start`` begins
with the weights of an earlier model).

One step in `CLASS_SHARE` shows single cells with their classes instead of crops to segment, so that
the tokens also tell kinds of cells apart; that head does not ship (the adapters bring their own).
"""

from __future__ import annotations

import argparse
import copy
import csv
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dinoscope.models.device import import_torch, precision_for

torch = import_torch()

from benchmarks.probe import raise_layer_scale  # noqa: E402
from benchmarks.settings import autocast, training_precision, write_table  # noqa: E402
from dinoscope.arrays.axes import read_plane  # noqa: E402
from dinoscope.arrays.decode import decode_instances, quantize  # noqa: E402
from dinoscope.arrays.files import read_image  # noqa: E402
from dinoscope.arrays.labels import typical_diameter  # noqa: E402
from dinoscope.arrays.metrics import average_precision  # noqa: E402
from dinoscope.arrays.normalize import Normalization, limits, to_model_input  # noqa: E402
from dinoscope.arrays.resample import resample, scaled_shape  # noqa: E402
from dinoscope.datasets import synthetic  # noqa: E402
from dinoscope.datasets.synthetic.rods import LOOKS  # noqa: E402
from dinoscope.engine.attention import AttentionCap  # noqa: E402
from dinoscope.engine.augment import Augmentation, make_crop  # noqa: E402
from dinoscope.engine.batches import Batch, BatchSource, CropPlan  # noqa: E402
from dinoscope.engine.dataset import (  # noqa: E402
    GeneratedSet,
    ImageSet,
    Source,
    TrainingImage,
    channel_ranges,
    normalized_planes,
)
from dinoscope.engine.dense import Runner  # noqa: E402
from dinoscope.engine.fit import FitOptions, fit  # noqa: E402
from dinoscope.models.checkpoint import load_model, save_model  # noqa: E402
from dinoscope.models.heads import DenseDecoder, pool_tokens  # noqa: E402
from dinoscope.models.model import Model  # noqa: E402
from dinoscope.tasks.base import task  # noqa: E402
from dinoscope.types import ImageInput  # noqa: E402

#: Objects are brought to this diameter: two patches.
DIAMETER_PX = 28.0
#: Channels that the decoder unfolds from each token.
FINE = 8
#: Training crops, and hence tiles: the position embedding is learned for this many patches.
CROP_PX = 224
TILE_PX = (224, 252)
CLASSES = ("background", "nucleus", "cell", "rod", "filament", "membrane")
NORMALIZATION = Normalization()
#: Rods packed side by side, the hardest of the generator's images, as a set of their own.
PACKED_RODS = "packed rods"
#: Share of the crops each set gives; DSB2018 by modality, so that rare stains are seen enough.
WEIGHTS = {
    "fluo_small": 0.10,
    "fluo_large": 0.09,
    "histology_purple": 0.09,
    "histology_white": 0.04,
    "brightfield_gray": 0.03,
    "fluo_tissue": 0.02,
    "usiigaci": 0.07,
    "nuclei": 0.02,
    "touching": 0.02,
    "rods": 0.10,
    PACKED_RODS: 0.24,
    "phase": 0.02,
    "brightfield": 0.01,
    "tissue": 0.04,
    "filaments": 0.01,
    "membranes": 0.01,
    "surface": 0.09,
}
#: Rods packed side by side are drawn from the part of the generator's ranges that is hardest.
PACKED = {"aspect": (3.0, 6.5), "coverage": (0.45, 0.8)}
#: Where real images are left out, their share goes to the generator's images most like them.
STAND_INS = {
    "fluo_small": "nuclei",
    "fluo_large": "touching",
    "fluo_tissue": "touching",
    "histology_purple": "tissue",
    "histology_white": "tissue",
    "brightfield_gray": "brightfield",
    "usiigaci": "phase",
}
#: Single-cell sets by folder: their axes.
CLASSIFIED = {"rbc12_crops": None, "cellcycle_ifc": "CYX"}
#: Sets whose classes live on absolute intensity; the others are normalised image by image, since
#: smears differ in stain and light, and a classifier would learn the smear.
ABSOLUTE = ("cellcycle_ifc",)
#: Share of the steps that show single cells, their number in a step and side in model pixels.
CLASS_SHARE, CLASS_BATCH, CLASS_PX = 0.06, 32, 112
#: Sets whose scale is hardest to tell: their crops are more often far from the training scale.
FAR_SCALE = {
    "usiigaci": 0.6,
    "phase": 0.5,
    "histology_purple": 0.4,
    "histology_white": 0.4,
    "brightfield_gray": 0.4,
    "fluo_tissue": 0.4,
}
#: Sides of the generated surfaces, all of which a crop shows: only the whole of a surface tells
#: where its lowest and highest places are.
SURFACE_SIDES = (224, 288, 384)
#: Images are kept at most this much larger than they are trained at: crops at far scales must be as
#: sharp as what prediction sees at that scale, or blur alone tells the size.
SPARE_SCALE = 4.0


def model_pixels(image: ImageInput) -> np.ndarray:
    """``(3, Y, X)`` of a plane, normalised as the embedded model is shown it."""
    return to_model_input(read_plane(image, ()), limits(image, NORMALIZATION), NORMALIZATION)


def real_image(folder: Path, row: dict[str, str], semantic_class: int) -> TrainingImage:
    """One annotated image; its semantic truth is that every object is of one class."""
    stem = row["id"]
    path = next(p for p in (folder / "images").glob(f"{stem}.*"))
    image = read_image(path)
    ids = read_plane(read_image(folder / "labels" / f"{stem}.tif"), ())[0].astype(np.int32)
    pixels = model_pixels(image)
    diameter = typical_diameter(ids)
    zoom = SPARE_SCALE * DIAMETER_PX / diameter if diameter else 1.0
    if zoom < 1:
        shape = scaled_shape(ids.shape, zoom)
        pixels = resample(pixels, shape)
        rows = (np.arange(shape[0]) * ids.shape[0] // shape[0])[:, None]
        ids = ids[rows, np.arange(shape[1]) * ids.shape[1] // shape[1]]
        diameter = diameter * zoom if diameter else None
    targets = {"instance": ids, "semantic": np.where(ids > 0, semantic_class, 0).astype(np.uint8)}
    group = row.get("group") or stem
    return TrainingImage(
        f"{folder.name}/{stem}", group, pixels.astype(np.float16), targets, diameter
    )


@dataclass(frozen=True)
class SyntheticImages:
    """Turns a seed into a training image of one kind, or of rods packed side by side."""

    kind: str
    surface_sides: tuple[int, ...] = SURFACE_SIDES

    def __call__(self, seed: int) -> TrainingImage:
        sides = self.surface_sides if self.kind == "surface" else (256,)
        side = sides[seed % len(sides)]
        if self.kind == PACKED_RODS:
            rng = np.random.default_rng(seed)
            drawn = {name: float(rng.uniform(*span)) for name, span in PACKED.items()}
            look = LOOKS[int(rng.integers(len(LOOKS)))]
            made = synthetic.make(
                "rods", (side, side), seed, arrangement="packed", look=look, **drawn
            )
        else:
            made = synthetic.make(self.kind, (side, side), seed)
        pixels = model_pixels(made.as_input())
        targets: dict[str, np.ndarray | int] = {}
        diameter = None
        if self.kind == "surface":
            targets["depth"] = np.asarray(made.depth, np.float32)
        else:
            targets["semantic"] = made.semantic
            if self.kind not in ("filaments", "membranes"):
                targets["instance"] = made.instances.astype(np.int32)
                diameter = typical_diameter(made.instances)
        return TrainingImage(
            f"{self.kind}/{seed}", self.kind, pixels.astype(np.float16), targets, diameter
        )


def load(
    data: Path, exclude: set[str]
) -> tuple[list[ImageSet | GeneratedSet], dict[str, list[TrainingImage]]]:
    """Training sets, and validation images by modality."""
    by_set: dict[str, list[TrainingImage]] = {}
    validation: dict[str, list[TrainingImage]] = {}
    for name, folder, kind in (
        ("dsb2018", "dsb2018", 1),
        ("usiigaci", "phase_contrast_usiigaci", 2),
    ):
        if name in exclude:
            continue
        with (data / folder / "index.csv").open() as handle:
            for row in csv.DictReader(handle):
                modality = row["modality"] if name == "dsb2018" else name
                place = by_set if row["split"] == "dev-train" else validation
                place.setdefault(modality, []).append(real_image(data / folder, row, kind))
    sets: list[ImageSet | GeneratedSet] = [
        ImageSet(name, images, WEIGHTS[name]) for name, images in by_set.items()
    ]
    for kind in WEIGHTS.keys() - STAND_INS.keys() - exclude:
        tasks = ("depth",) if kind == "surface" else ("instance", "semantic")
        missing = [n for n, like in STAND_INS.items() if like == kind and n not in by_set]
        share = WEIGHTS[kind] + sum(WEIGHTS[n] for n in missing)
        sets.append(GeneratedSet(kind, SyntheticImages(kind), tasks, share))
    return sorted(sets, key=lambda s: s.name), validation


@dataclass
class SingleCells:
    """Single cells of several sets with classes numbered through: training and validation."""

    classes: tuple[str, ...]
    training: list[ImageSet]
    validation: dict[str, list[TrainingImage]]
    plans: dict[str, CropPlan]
    normalizations: dict[str, Normalization]


def single_cells(data: Path, exclude: set[str]) -> SingleCells:
    """The sets of `CLASSIFIED`, each normalised over itself as its adapter will do it."""
    found = SingleCells((), [], {}, {}, {})
    for folder, axes in CLASSIFIED.items():
        if folder in exclude:
            continue
        with (data / folder / "index.csv").open(newline="") as handle:
            rows = list(csv.DictReader(handle))
        files = {p.stem: p for p in (data / folder / "images").iterdir()}
        names = sorted({r["class_name"] for r in rows})
        numbers = {name: len(found.classes) + i for i, name in enumerate(names)}
        found.classes += tuple(f"{folder}: {name}" for name in names)
        training = [r for r in rows if r["split"] == "dev-train"]
        fixed = Normalization()
        if folder in ABSOLUTE:
            some = [read_image(files[r["id"]], axes) for r in training]
            fixed = Normalization(mode="fixed", ranges=channel_ranges(some))
        parts: dict[str, list[TrainingImage]] = {"dev-train": [], "dev-val": []}
        for row in rows:
            [(_, pixels)] = normalized_planes(read_image(files[row["id"]], axes), fixed)
            target = {"classification": numbers[row["class_name"]]}
            parts[row["split"]].append(TrainingImage(row["id"], row["id"], pixels, target))
        found.training.append(ImageSet(folder, parts["dev-train"]))
        found.validation[folder] = parts["dev-val"]
        side = parts["dev-train"][0].pixels.shape[-1]
        gentle = Augmentation(scale_jitter=0.0, intensity=0.35, invert=0.0, keep_absolute=True)
        found.normalizations[folder] = fixed
        found.plans[folder] = CropPlan(CLASS_PX, None, CLASS_PX / side, gentle)
    return found


class MixedBatches(BatchSource):
    """Crops to segment, and every so often single cells to classify."""

    def __init__(
        self, sets: list[Source], plan: CropPlan, cells: SingleCells, batch_size: int, seed: int
    ) -> None:
        super().__init__(sets, plan, batch_size, seed)
        self.cells = cells
        self.far = {
            name: replace(plan, augmentation=replace(plan.augmentation, far_scale=share))
            for name, share in FAR_SCALE.items()
        }

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, step])
        if self.cells.training and rng.random() < CLASS_SHARE:
            sets = self.cells.training
            picked = [sets[int(i)] for i in rng.integers(len(sets), size=CLASS_BATCH)]
            pairs = [(s.draw(rng), self.cells.plans[s.name]) for s in picked]
        else:
            chosen = rng.choice(len(self.sources), self.batch_size, p=self.shares)
            drawn = [self.sources[int(i)] for i in chosen]
            pairs = [(s.draw(rng), self.far.get(s.name, self.plan)) for s in drawn]
            pairs = [(i, whole_view(i) if "depth" in i.targets else p) for i, p in pairs]
        crops = [
            make_crop(i, rng, p.crop_px, p.zoom_of(i), p.augmentation, p.diameter_px)
            for i, p in pairs
        ]
        return Batch.gather(step, crops, [image.name for image, _ in pairs])


def whole_view(image: TrainingImage) -> CropPlan:
    """A crop that shows about all of an image."""
    gentle = Augmentation(scale_jitter=0.2, invert=0.0)
    return CropPlan(CROP_PX, None, CROP_PX / max(image.pixels.shape[-2:]), gentle)


def class_scores(runner: Runner, cells: SingleCells) -> dict[str, float]:
    """Balanced accuracy on the validation cells of each set."""
    found = {}
    for name, images in cells.validation.items():
        hits: dict[int, list[bool]] = {}
        for begin in range(0, len(images), 32):
            part = images[begin : begin + 32]
            shown = [resample(i.pixels.astype(np.float32), (CLASS_PX, CLASS_PX)) for i in part]
            pixels = torch.from_numpy(np.stack(shown))
            with torch.no_grad(), autocast():
                features = runner.model.encode(pixels)
                pooled = pool_tokens(runner.model.pooled_features(features, pixels))
                guess = runner.model.decode_pooled(pooled).float().argmax(1)
            for image, number in zip(part, guess.tolist(), strict=True):
                truth = int(image.targets["classification"])
                hits.setdefault(truth, []).append(number == truth)
        found[f"balanced_accuracy_{name}"] = float(np.mean([np.mean(h) for h in hits.values()]))
    return found


def instance_maps(
    runner: Runner, pixels: np.ndarray, shape: tuple[int, ...], diameter_px: float | None
) -> np.ndarray:
    """Maps ``(K, *shape)`` of pixels whose objects, at `shape`, have a known diameter."""
    zoom = DIAMETER_PX / (diameter_px or DIAMETER_PX)
    shown = resample(pixels.astype(np.float32), scaled_shape(shape, zoom))
    return resample(runner.dense_maps(shown, ["instance"])["instance"], shape)


def scores(
    model: Model, validation: dict[str, list[TrainingImage]], cells: SingleCells, at_most: int
) -> dict[str, float]:
    """AP@0.5 by modality with known diameters, relative depth error on generated surfaces, and
    balanced accuracy on single cells."""
    runner = Runner(model, "cpu", precision_for("cpu"))
    result, precisions = {}, []
    for modality, images in validation.items():
        values = []
        for image in images[:at_most]:
            ids = np.asarray(image.targets["instance"])
            maps = instance_maps(runner, image.pixels, ids.shape, image.diameter_px)[:3]
            values.append(average_precision(ids, decode_instances(quantize(maps)), (0.5,))[0])
        result[f"ap50_{modality}"] = float(np.mean(values))
        precisions += values
    errors = []
    for seed in range(4):
        image = SyntheticImages("surface")(10_000 + seed)
        truth = np.asarray(image.targets["depth"])
        shown = scaled_shape(truth.shape, CROP_PX / max(truth.shape))
        maps = runner.dense_maps(resample(image.pixels.astype(np.float32), shown), ["depth"])
        depth = resample(maps["depth"], truth.shape)[0]
        errors.append(np.sqrt(np.mean((depth - truth) ** 2)) / truth.std())
    result["depth_over_mean"] = float(np.mean(errors))
    result |= class_scores(runner, cells)
    result["ap50"] = float(np.mean(precisions)) if precisions else 0.0
    known = [v for n, v in result.items() if n.startswith("balanced_accuracy")]
    result["score"] = (
        result["ap50"]
        + 0.1 * (1 - min(1.0, result["depth_over_mean"]))
        + (0.1 * float(np.mean(known)) if known else 0.0)
    )
    return result


def fresh(seed: int) -> Model:
    """The embedded architecture with random weights and the heads that ship."""
    heads = {
        "instance": task("instance").head_spec(()),
        "semantic": task("semantic").head_spec(CLASSES),
        "depth": task("depth").head_spec(()),
    }
    model = Model.fresh(
        "embedded",
        heads,
        seed=seed,
        fine_channels=FINE,
        diameter_px=DIAMETER_PX,
        tile=TILE_PX,
        normalization=NORMALIZATION.to_json(),
    )
    raise_layer_scale(model)
    return show_whole_surfaces(model)


def show_whole_surfaces(model: Model) -> Model:
    """The same model, whose depth head is shown all of a plane, as in training."""
    heads = dict(model.card.heads)
    heads["depth"] = replace(heads["depth"], view="whole")
    model.card = model.card.replace(heads=heads)
    return model


def unfold_tokens(model: Model) -> Model:
    """The same model, whose decoder has the path of `FINE` channels that earlier ones lacked; it
    changes nothing at first."""
    if model.decoder is not None and not model.card.fine_channels:
        decoder = DenseDecoder(model.token_dim, model.backbone.patch, FINE)
        decoder.load_state_dict({**decoder.state_dict(), **model.decoder.state_dict()})
        model.decoder = decoder
        model.card = model.card.replace(fine_channels=FINE)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1.2e-3)
    parser.add_argument(
        "--detail-drop",
        type=float,
        default=0.0,
        help="share of the crops that the decoder has to read off the tokens alone; with 0.4 they "
        "learn to, but objects are found no better",
    )
    parser.add_argument("--exclude", action="append", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--start", type=Path, help="model whose weights are gone on from")
    parser.add_argument("--validate-every", type=float, default=420.0)
    parser.add_argument("--validation-images", type=int, default=5)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    model = fresh(options.seed)
    begun = time.time()
    cells = single_cells(options.data, set(options.exclude))
    if options.start:
        model = unfold_tokens(show_whole_surfaces(load_model(options.start, device="cpu")))
    if cells.classes:
        model.add_head("classification", task("classification").head_spec(cells.classes))
    assert model.decoder is not None
    model.decoder.detail_drop = options.detail_drop
    sets, validation = load(options.data, set(options.exclude))
    print(f"read {sum(len(s) for s in sets)} images in {time.time() - begun:.0f} s", flush=True)
    plan = CropPlan(CROP_PX, DIAMETER_PX, 1.0, Augmentation(far_scale=0.25, coarse=0.2))
    settings = FitOptions(
        seconds=options.minutes * 60,
        steps=None,
        learning_rate=options.learning_rate,
        weight_decay=0.05,
        autocast=training_precision(),
        validate_every_s=options.validate_every,
        average=0.998,
        balance="fixed",
        balance_weights={"instance": 1.0, "semantic": 0.3, "depth": 24.0, "classification": 0.3},
        # Relative heights are judged as they are, so their level counts as much as their shape.
        loss_settings={"depth": {"depth_loss": "mse"}},
        warmup=0.03,
        log_every=10,
    )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    log = options.output.with_suffix(".csv")
    events = fit(
        model,
        MixedBatches(sets, plan, cells, options.batch_size, options.seed),
        settings,
        checkpoint=options.output.with_suffix(".ckpt"),
        resume=options.resume,
        extras=[AttentionCap(model.backbone.vit)],
        validate=lambda m: scores(m, validation, cells, options.validation_images),
    )
    rows: list[dict[str, object]] = read_log(log) if options.resume else []
    earlier = float(rows[-1]["minutes"]) if rows else 0.0
    while True:
        try:
            event = next(events)
        except StopIteration as stop:
            state = stop.value
            break
        values = {
            "minutes": round(earlier + (time.time() - begun) / 60, 2),
            "step": event.message[5:],
            **event.values,
        }
        rows.append(values)
        if any(n.startswith("val_") for n in values):
            print({k: round(float(v), 4) for k, v in values.items()}, flush=True)
            save_model(
                model_card(model, state=values, training=vars(options)),
                options.output.with_suffix(".last.dinoscope"),
            )
        if len(rows) % 20 == 0:
            write_table(log, rows)
            print(values, flush=True)
    write_table(log, rows)
    print("done", state.step, state.best_score, state.best_step)
    save_model(
        model_card(model, state=state.history[-1] if state.history else {}, training=vars(options)),
        options.output,
        half=True,
    )


def model_card(model: Model, *, state: dict[str, float], training: dict[str, object]) -> Model:
    """A copy to ship, with what was learned about it in its card: all but the class head."""
    model = copy.deepcopy(model)
    model.keep_heads(["instance", "semantic", "depth"])
    model.card = model.card.replace(
        name="embedded",
        licence="BSD-3-Clause",
        data=(
            "DSB2018 / BBBC038 (CC0-1.0)",
            "Usiigaci phase contrast (MIT)",
            "Chula-RBC-12 (MIT)",
            "Imaging flow cytometry of Blasi et al. 2016 / BBBC048 (BSD-3-Clause)",
            "dinoscope synthetic generator",
        ),
        description=(
            "A small vision transformer with DINOv2's architecture, trained from scratch by the "
            "dinoscope project on annotated microscopy and synthetic images. Not Meta's weights."
        ),
        scores={k: round(float(v), 4) for k, v in state.items() if k.startswith("val_")},
        training={k: str(v) for k, v in training.items() if k not in ("data", "output")},
    )
    return model


def read_log(path: Path) -> list[dict[str, object]]:
    """The rows of an earlier part of the run; none where there is no log."""
    if not path.exists():
        return []
    with path.open(newline="") as handle:
        return [{n: v for n, v in row.items() if v} for row in csv.DictReader(handle)]


if __name__ == "__main__":
    main()
