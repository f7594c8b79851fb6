"""Figures of the feature exploration: live similarity, colours, projections, agreement, tuning.

``python -m benchmarks.run explore --json rows.json`` runs all parts; ``--data`` adds what tuning
does to the red cells of ``rbc12_crops``. The parts of the panel (brushing) are measured in a real
window, elsewhere.
"""

from __future__ import annotations

import csv
import statistics
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rows import Row
from dinoscope.config import (
    ClusterOptions,
    ExploreOptions,
    PcaOptions,
    ProjectionOptions,
    SimilarityOptions,
)
from dinoscope.types import ImageInput

#: Side of the image in pixels; 74 x 74 patches.
SIDE = 1024
CLICKS = 20
#: What the window has for a click.
LIVE_MS = 50.0
POINTS = 10_000
MANY_POINTS = 1_000_000


def run_to_end(steps: Generator[Any, None, Any]) -> Any:
    """What a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def texture(seed: int = 0, planes: int = 1) -> ImageInput:
    """Blurred noise of several sizes in regions, ``(planes, SIDE, SIDE)`` uint8."""
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(planes, SIDE, SIDE)).astype(np.float32)
    sizes = [ndimage.gaussian_filter(noise, (0, s, s)) * s for s in (1, 3, 8)]
    where = ndimage.gaussian_filter(rng.normal(size=(planes, SIDE, SIDE)), (0, 60, 60))
    cuts = np.quantile(where, [1 / 3, 2 / 3])
    mixed = np.choose(np.digitize(where, cuts), sizes)
    return ImageInput(
        np.clip(110 + 90 * mixed, 0, 255).astype(np.uint8), "ZYX", {}, f"texture {seed}"
    )


def live_rows(data: Path | None) -> Iterator[Row]:
    """A click: through the worker's process, from request to the map in the window's process."""
    from dinoscope.worker.client import WorkerClient

    client = WorkerClient()
    try:
        for layers, name in (("last", "192"), ("early+last", "384")):
            options = ExploreOptions(zoom=1, layers=layers)
            payload = {"model": "embedded", "options": options}
            image = texture()
            done = client.submit("tokens", payload, {"image": image}).wait(600)
            if done.kind != "done":
                raise RuntimeError(str(done.data.get("error")))
            found = done.data["sets"][0]
            for upsample in ("linear", "image"):
                times = [_click_ms(client, found["set"], k, upsample) for k in range(CLICKS + 2)]
                label = f"similarity of a click, {SIDE}², {name} dimensions, {upsample}"
                live = upsample == "linear"
                must = LIVE_MS if live else None
                yield Row(f"{label}, median (ms, less)", statistics.median(times[2:]), must=must)
                worst = float(np.percentile(times[2:], 95))
                yield Row(f"{label}, 95th percentile (ms, less)", worst, must=must)
            began = time.perf_counter()
            again = client.submit("tokens", payload, {"image": image}).wait(600)
            seconds = time.perf_counter() - began
            if again.data["sets"][0]["cached"] != 1:
                raise RuntimeError("the plane was encoded again")
            yield Row(f"tokens of {SIDE}² that are known, {name} dimensions (s, less)", seconds)
    finally:
        client.close()


def _click_ms(client: Any, name: str, number: int, upsample: str) -> float:
    """Milliseconds from a request to its last event."""
    places = np.random.default_rng(number).integers(0, SIDE, (2, 2))
    clicks = [
        {"set": name, "index": (0,), "y": float(y), "x": float(x)} for y, x in places.tolist()
    ]
    payload = {
        "positive": clicks[:1],
        "negative": clicks[1:],
        "targets": [[name, (0,)]],
        "options": SimilarityOptions(upsample=upsample, threshold=0.0),
    }
    began = time.perf_counter()
    done = client.submit("similarity", payload).wait(60)
    taken = 1000 * (time.perf_counter() - began)
    if done.kind != "done":
        raise RuntimeError(str(done.data.get("error")))
    return taken


def colour_rows(data: Path | None) -> Iterator[Row]:
    """PCA overlays: time, and agreement with scikit-learn on the same tokens."""
    from sklearn.decomposition import PCA

    from dinoscope.engine.explore.encode import encode
    from dinoscope.engine.explore.overlay import coloured, fit_bases
    from dinoscope.models.checkpoint import load_model

    model = load_model("embedded")
    found = run_to_end(encode(texture(planes=3), model, ExploreOptions(zoom=1)))
    began = time.perf_counter()
    bases = run_to_end(fit_bases([found]))
    yield Row(f"components of 3 planes of {SIDE}² (s, less)", time.perf_counter() - began)
    for upsample in ("patch", "linear", "image"):
        began = time.perf_counter()
        places = [(0, (0,))]
        run_to_end(coloured([found], bases, PcaOptions(upsample=upsample), places=places))
        seconds = time.perf_counter() - began
        yield Row(f"colours of {SIDE}², {upsample} (s, less)", seconds)
    tokens = np.concatenate([found.tokens(i) for i in found.indices]).astype(np.float64)
    whole = PCA(3, svd_solver="full").fit(tokens)
    inner = (whole.components_ * bases[0].components[:3]).sum(1)
    yield Row(
        "components plane by plane against sklearn on all tokens, least signed cosine (more)",
        float(inner.min()),
        must=0.9999,
    )
    apart = np.abs(whole.explained_variance_ratio_ - bases[0].explained[:3]).max()
    yield Row("explained variance against sklearn, largest difference (less)", float(apart))


class _Points:
    """Points whose tokens are made when they are asked for: what a stack of patches is."""

    def __init__(self, count: int, dim: int = 192, groups: int = 12) -> None:
        rng = np.random.default_rng(0)
        self._centres = rng.normal(0, 2, (groups, dim)).astype(np.float32)
        self._group = rng.integers(0, groups, count)
        self._noise = rng.normal(size=(4096, dim)).astype(np.float32)
        self.dim = dim

    def __len__(self) -> int:
        return len(self._group)

    def features(self, rows: np.ndarray | None = None) -> np.ndarray:
        """As :meth:`dinoscope.engine.explore.points.PointSet.features`."""
        chosen = np.arange(len(self)) if rows is None else rows
        return self._centres[self._group[chosen]] + self._noise[chosen % len(self._noise)]


def projection_rows(data: Path | None) -> Iterator[Row]:
    """Time of layouts and groups, of ten thousand points and of a million."""
    from dinoscope.engine.explore.clusters import find_clusters
    from dinoscope.engine.explore.projection import project, require_umap
    from dinoscope.errors import UsageError

    few: Any = _Points(POINTS)
    many: Any = _Points(MANY_POINTS)
    jobs: list[tuple[str, Any, Any]] = [
        (f"PCA of {POINTS:,} points", project, (few, ProjectionOptions("pca"))),
        (f"PCA of {MANY_POINTS:,} points", project, (many, ProjectionOptions("pca"))),
        (f"t-SNE of {POINTS:,} points", project, (few, ProjectionOptions("tsne"))),
        (f"k-means of {MANY_POINTS:,} points", find_clusters, (many, ClusterOptions())),
        (f"HDBSCAN of {POINTS:,} points", find_clusters, (few, ClusterOptions("hdbscan"))),
    ]
    try:
        require_umap()
        jobs.append((f"UMAP of {POINTS:,} points", project, (few, ProjectionOptions("umap"))))
    except UsageError:
        yield Row("UMAP (not installed)", None)
    for label, function, arguments in jobs:
        began = time.perf_counter()
        run_to_end(function(*arguments))
        yield Row(f"{label}, 192 dimensions (s, less)", time.perf_counter() - began)


def tuning_rows(data: Path | None) -> Iterator[Row]:
    """Does tuning help: red cells of images that the adapter was not trained on, before and after.

    Points are the crops; crops of one smear are never on both sides of a fold.
    """
    from imageio.v3 import imread

    from dinoscope.engine.explore.encode import encode, load_original
    from dinoscope.engine.explore.points import image_points
    from dinoscope.engine.explore.separability import separability
    from dinoscope.models.checkpoint import load_model

    if data is None or not (data / "rbc12_crops" / "index.csv").exists():
        yield Row("red cells before and after tuning (no --data)", None)
        return
    folder = data / "rbc12_crops"
    with (folder / "index.csv").open(newline="", encoding="utf-8") as file:
        chosen = [row for row in csv.DictReader(file) if row["split"] == "dev-val"]
    crops = [imread(next((folder / "images").glob(f"{row['id']}.*"))) for row in chosen]
    image = ImageInput(np.stack(crops), "QYXS", {}, "red cells")
    classes = np.array([row["class_name"] for row in chosen])
    groups = np.array([row["source_image"] for row in chosen])
    for label, model in (
        ("original", load_original("embedded-redcells")),
        ("tuned", load_model("embedded-redcells")),
    ):
        found = run_to_end(encode(image, model, ExploreOptions(), adapter=label == "tuned"))
        points = run_to_end(image_points([found]))
        score = run_to_end(separability(points.features(), classes, groups=groups))
        yield Row(f"red cells, linear probe, {label} (balanced accuracy, more)", score.accuracy)
        yield Row(f"red cells, silhouette, {label} (more)", score.silhouette)


PARTS = {
    "similarity": live_rows,
    "colours": colour_rows,
    "projections": projection_rows,
    "tuning": tuning_rows,
}
