"""A linear probe of the frozen backbone against the same architecture with random weights.

Cells are shown as the adapters are shown them: smears are normalised image by image (they differ in
stain and light), flow cytometry over all images, since how much DNA there is tells the phase.

For the bar, the backbone must never have seen the labels that are probed: give with ``--twin`` a
model of ``benchmarks.train_embedded --exclude rbc12_crops --exclude cellcycle_ifc`` or of
``benchmarks.pretrain_cells``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import sets
from benchmarks.rows import Row
from benchmarks.settings import Kept, Settings, model_key, say

#: Axes, the column that names what must not be split, and the classes (all where none are named).
SETS: dict[str, tuple[str | None, str, tuple[str, ...]]] = {
    "rbc12_crops": (None, "source_image", ()),
    "cellcycle_ifc": ("CYX", "id", ("G1", "S_phase", "G2", "Prophase")),
}
#: Strengths of the probe's penalty; the training images choose by cross-validation.
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
RANDOM_SEEDS = (0, 1, 2)
BATCH = 16


def rows(settings: Settings) -> Iterator[Row]:
    """Error of the probe over that with random weights, by set."""
    kept = Kept(settings, "probe")
    model = settings.twin or settings.model
    label = model_key(model)
    limit = f", {settings.images} images" if settings.images else ""
    for name in SETS:
        seen = sets.saw(model, name)
        if seen:
            say(f"{model} was trained with {name}: its ratio is not the bar; give --twin")
        note = ", labels seen" if seen else ""
        own = kept.get(f"{name}, {label}{limit}", lambda n=name: error(settings, n, model))
        chance = []
        for start in ("DINOv2's LayerScale", "LayerScale 0.1"):
            found = [
                kept.get(
                    f"{name}, random {seed}, {start}{limit}",
                    lambda n=name, s=seed, x=start: error(settings, n, random_twin(model, s, x)),
                )
                for seed in RANDOM_SEEDS
            ]
            chance.append(float(np.mean(found)))
        best = min(chance)  # of the two usual starts, the one whose random tokens tell more
        yield Row(f"{name} probe, error{note} (less)", own, rival_value=best)
        yield Row(
            f"{name} probe{note}, error over that of random weights (less)",
            own / best if best else None,
            must=None if seen else 0.75,
            aim=None if seen else 0.55,
        )


def random_twin(model: str, seed: int, start: str) -> Any:
    """The architecture of `model` with random weights."""
    from dinoscope.models.catalog import inspect
    from dinoscope.models.model import Model

    twin = Model.fresh(inspect(model).backbone, seed=seed)
    if "0.1" in start:
        raise_layer_scale(twin)
    return twin.eval()


def raise_layer_scale(model: Any, value: float = 0.1) -> None:
    """Open the blocks: DINOv2 starts LayerScale at 1e-5, which suits 300 M images."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".ls1." in name or ".ls2." in name:
                parameter.fill_(value)


def error(settings: Settings, name: str, model: Any) -> float:
    """Share of wrong answers on the validation images, by logistic regression on pooled tokens."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from benchmarks.train_embedded import ABSOLUTE
    from dinoscope.arrays.normalize import Normalization
    from dinoscope.models.checkpoint import load_model

    if isinstance(model, str):
        model = load_model(model, device="cpu")
    _, column, classes = SETS[name]
    parts = {}
    for split in ("dev-train", "dev-val"):
        found = sets.index(
            settings, name, split, lambda r: not classes or r["class_name"] in classes
        )
        if split == "dev-train" and settings.images:
            found = found[:: max(1, len(found) // (10 * settings.images))]
        parts[split] = found
    shown = Normalization()
    if name in ABSOLUTE:
        shown = Normalization("fixed", ranges=channel_ranges(settings, name, parts["dev-train"]))
    vectors = {split: embed(settings, name, part, shown, model) for split, part in parts.items()}
    truth = {split: [r["class_name"] for r in part] for split, part in parts.items()}
    groups = [r[column] for r in parts["dev-train"]]
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000)),
        {"logisticregression__C": STRENGTHS},
        cv=GroupKFold(min(5, len(set(groups)))),
    )
    search.fit(vectors["dev-train"], truth["dev-train"], groups=groups)
    wrong = search.predict(vectors["dev-val"]) != np.array(truth["dev-val"])
    return float(wrong.mean())


def channel_ranges(settings: Settings, name: str, rows_: list[dict[str, str]]) -> Any:
    """Fixed range of each channel over the training images: absolute intensity counts too."""
    from dinoscope.arrays.files import read_image
    from dinoscope.engine.dataset import channel_ranges as ranges_of

    axes = SETS[name][0]
    return ranges_of([read_image(sets.image_file(settings, name, r["id"]), axes) for r in rows_])


def embed(
    settings: Settings, name: str, rows_: list[dict[str, str]], shown: Any, model: Any
) -> np.ndarray:
    """``(n, D)`` pooled tokens of the cells of a set."""
    import torch

    from benchmarks.train_embedded import CLASS_PX
    from dinoscope.arrays.files import read_image
    from dinoscope.arrays.resample import resample
    from dinoscope.engine.dataset import normalized_planes
    from dinoscope.models.device import set_threads
    from dinoscope.models.heads import pool_tokens

    set_threads(settings.threads)
    vectors = []
    for begin in range(0, len(rows_), BATCH):
        planes = []
        for row in rows_[begin : begin + BATCH]:
            image = read_image(sets.image_file(settings, name, row["id"]), SETS[name][0])
            [(_, pixels)] = normalized_planes(image, shown)
            planes.append(resample(pixels.astype(np.float32), (CLASS_PX, CLASS_PX)))
        with torch.inference_mode():
            vectors.append(pool_tokens(model.encode(torch.from_numpy(np.stack(planes)))).numpy())
    return np.concatenate(vectors)
