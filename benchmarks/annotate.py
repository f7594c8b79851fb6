"""The fast loop: how soon strokes become labels, and how good these are, against its rivals.

convpaint runs in an environment of its own (see `benchmarks.rivals`); without one its rows are left
out. Accuracy comes from simulated strokes (`benchmarks.strokes`): the same pixels for everybody.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import lora_step, rivals, sets
from benchmarks.rows import Row
from benchmarks.settings import Settings, say
from benchmarks.strokes import draw

SIDE = 1024
ROUNDS = 5
#: Painted pixels as a share of all.
SHARES = (0.0025, 0.01, 0.025)
#: Sets that no weight of ours was trained on, and those whose kind was.
UNSEEN = ("em_isbi2012", "em_vnc", "wbc")
SEEN = ("dsb2018", "phase_contrast_usiigaci")


def fit_forest(table: np.ndarray, scribbles: np.ndarray) -> Any:
    """scikit-image's trainable segmentation: the forest of its gallery, on kept features."""
    from skimage.future import fit_segmenter
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(n_estimators=50, n_jobs=-1, max_depth=10, random_state=0)
    return fit_segmenter(scribbles, table, forest)


def forest_features(pixels: np.ndarray) -> np.ndarray:
    """``(C, Y, X)`` to the features of scikit-image's gallery, ``(Y, X, K)``."""
    from skimage.feature import multiscale_basic_features

    found: np.ndarray = multiscale_basic_features(
        np.moveaxis(pixels, 0, -1), sigma_min=1, sigma_max=16, channel_axis=-1
    )
    return found


def textured(side: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A made image of three textures, ``(side, side)`` float32, and its classes 0 to 2."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    broad = gaussian_filter(rng.standard_normal((side, side)), 12)
    fine = gaussian_filter(rng.standard_normal((side, side)), 1.2)
    broad, fine = broad / broad.std(), fine / fine.std()
    classes = np.where(broad > 0.6, 1, np.where(broad < -0.9, 2, 0)).astype(np.uint8)
    wave = 15 * np.sign(np.sin(np.arange(side) / 3))
    image = 100 + 6 * fine + 4 * rng.standard_normal((side, side))
    image += (classes == 1) * 20 * (1 + 0.5 * fine) + (classes == 2) * (wave - 10)
    return image.astype(np.float32), classes


def _session(model: Any, threads: int) -> Any:
    """A session of the fast loop with an empty store."""
    from dinoscope.config import AnnotateOptions
    from dinoscope.engine.explore.store import TokenStore
    from dinoscope.engine.scribble.session import ScribbleSession

    options = AnnotateOptions(threads=threads, cache_mb=0)
    return ScribbleSession(model, options, TokenStore(), threads=threads)


def _finish(steps: Any) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def _labels(session: Any, image: Any, scribbles: np.ndarray) -> np.ndarray:
    """Strokes to labels, as ``annotate_preview`` does it."""
    pixels = np.flatnonzero(scribbles)
    session.set_strokes("image", (), pixels, scribbles.ravel()[pixels])
    features = _finish(session.features("image", (), image))
    session.fit(calibrate=False)
    return np.asarray(session.predict("image", (), features).labels)


def _first_labels(session: Any, image: Any, scribbles: np.ndarray) -> np.ndarray:
    """The first strokes to the first labels of the whole plane that are shown."""
    pixels = np.flatnonzero(scribbles)
    session.set_strokes("image", (), pixels, scribbles.ravel()[pixels])
    found = _finish(session.rough("image", (), image))
    return np.asarray(found.labels) if found is not None else _labels(session, image, scribbles)


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def engine_rows(settings: Settings) -> Iterator[Row]:
    """First and later strokes on 1024² with a ViT-S of random weights, all cores for everyone."""
    from dinoscope.models.device import set_threads
    from dinoscope.models.model import Model
    from dinoscope.types import ImageInput

    threads = set_threads(settings.threads)
    model = Model.fresh("dinov2_vits14").eval()
    pixels, truth = textured(SIDE)
    image = ImageInput(pixels, "YX")
    few, more = draw(truth, (0.0002, 0.0003), seed=0)
    table = forest_features(pixels[None])
    from skimage.future import predict_segmenter

    names = ("first", "sharp", "later", "forest", "kept")
    times: dict[str, list[float]] = {n: [] for n in names}
    for turn in range(ROUNDS + 1):
        session = _session(model, threads)
        first = _seconds(lambda s=session: _first_labels(s, image, few))
        sharp = first + _seconds(lambda s=session: _labels(s, image, few))
        later = _seconds(lambda s=session: _labels(s, image, more))
        whole = _seconds(
            lambda: predict_segmenter(kept := forest_features(pixels[None]), fit_forest(kept, few))
        )
        kept = _seconds(lambda: predict_segmenter(table, fit_forest(table, more)))
        if turn:  # the first round only warms up
            for name, value in zip(names, (first, sharp, later, whole, kept), strict=True):
                times[name].append(value)
    middle = {name: statistics.median(values) for name, values in times.items()}
    painted = int((few > 0).sum()), int((more > 0).sum())
    yield Row(
        f"first stroke ({painted[0]} px) to labels of {SIDE}², nothing kept, s", middle["first"]
    )
    yield Row(
        f"first stroke to labels of {SIDE}² from all tokens, which follow by themselves, s",
        middle["sharp"],
    )
    yield Row(f"later stroke ({painted[1]} px) to labels of {SIDE}², s", middle["later"])
    yield Row(
        "first stroke over scikit-image's forest (less)",
        middle["first"] / middle["forest"],
        must=1.1,
        aim=0.6,
        rival_value=middle["forest"],
    )
    yield Row(
        "later stroke over scikit-image's forest with kept features (less)",
        middle["later"] / middle["kept"],
        must=1 / 8,
        aim=1 / 16,
        rival_value=middle["kept"],
    )
    bars = (
        ("dinov2", "first", 1 / 15, 1 / 30),
        ("dinov2", "later", 1 / 400, 1 / 1000),
        ("vgg", "later", 1 / 60, 1 / 150),
        ("gaussian", "later", None, None),
    )
    measured: dict[str, np.ndarray] = {}
    for alias, which, must, aim in bars:
        if alias not in measured:
            say(f"convpaint {alias}")
            found = rivals.convpaint_strokes(alias, [pixels], [(few, more)])
            if found is None:
                continue
            measured[alias] = found["times"]
        rival = float(measured[alias][0 if which == "first" else 1])
        yield Row(
            f"{which} stroke over convpaint {alias} (less)",
            middle[which] / rival,
            must=must,
            aim=aim,
            rival_value=rival,
        )


@dataclass(frozen=True)
class _Case:
    """An image, its channels about 0 to 1, its classes, and scribbles for each share."""

    image: Any
    pixels: np.ndarray
    truth: np.ndarray
    scribbles: tuple[np.ndarray, ...]


def _cases(settings: Settings, name: str) -> Iterator[_Case]:
    from dinoscope.arrays.axes import read_plane
    from dinoscope.arrays.files import read_image
    from dinoscope.arrays.normalize import Normalization, limits, to_model_input

    for number, row in enumerate(sets.index(settings, name, "dev-val")):
        image = read_image(sets.image_file(settings, name, row["id"]))
        found = read_image(sets.image_file(settings, name, row["id"], "labels"))
        truth = np.asarray(found.data).reshape(image.size("Y"), image.size("X"))
        if name in SEEN:
            truth = truth > 0
        truth = truth.astype(np.uint8)
        if len(np.unique(truth)) < 2:
            continue
        plane = read_plane(image, ())
        bounds = limits(image, Normalization())
        pixels = np.stack(
            [
                to_model_input(plane[c : c + 1], bounds[c : c + 1], Normalization())[0]
                for c in range(len(plane))
            ]
        )
        yield _Case(image, pixels, truth, tuple(draw(truth, SHARES, seed=number)))


def mean_iou(labels: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the classes of `truth` of intersection over union."""
    found = []
    for c in np.unique(truth):
        mine, true = labels == c, truth == c
        found.append((mine & true).sum() / (mine | true).sum())
    return float(np.mean(found))


def _forest_labels(cases: Sequence[_Case]) -> list[list[np.ndarray]]:
    from skimage.future import predict_segmenter

    found = []
    for case in cases:
        table = forest_features(case.pixels)
        found.append([predict_segmenter(table, fit_forest(table, s)) for s in case.scribbles])
    return found


def _convpaint_labels(alias: str, cases: Sequence[_Case]) -> list[list[np.ndarray]] | None:
    images = [c.pixels if len(c.pixels) == 3 else c.pixels[0] for c in cases]
    found = rivals.convpaint_strokes(alias, images, [c.scribbles for c in cases])
    if found is None:
        return None
    return [[found[f"labels_{i}_{k}"] for k in range(len(SHARES))] for i in range(len(cases))]


def _our_labels(settings: Settings, cases: Sequence[_Case]) -> list[list[np.ndarray]]:
    from dinoscope.models.checkpoint import load_model
    from dinoscope.models.device import set_threads

    threads = set_threads(settings.threads)
    model = load_model(settings.model)
    found = []
    for case in cases:
        session = _session(model, threads)
        found.append([_labels(session, case.image, s) for s in case.scribbles])
    return found


def _mean_scores(drawn: Sequence[Sequence[np.ndarray]], cases: Sequence[_Case]) -> np.ndarray:
    """Mean IoU over images, for each share."""
    each = [
        [mean_iou(one - 1.0, case.truth) for one in labels]
        for labels, case in zip(drawn, cases, strict=True)
    ]
    return np.asarray(each).mean(0)


def _rival_scores(settings: Settings, name: str, cases: Sequence[_Case]) -> dict[str, np.ndarray]:
    """Of scikit-image's forest and convpaint; kept, as they do not change with our weights."""
    digest = hashlib.blake2b(digest_size=8)
    for case in cases:
        digest.update(case.pixels.tobytes())
        for scribbles in case.scribbles:
            digest.update(scribbles.tobytes())
    folder = settings.work / "rivals"
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    runs: dict[str, Callable[[], Any]] = {
        "forest": lambda: _forest_labels(cases),
        "convpaint gaussian": lambda: _convpaint_labels("gaussian", cases),
    }
    if name in UNSEEN:  # slow, and with random weights it only stands beside
        runs["convpaint vgg"] = lambda: _convpaint_labels("vgg", cases)
    for who, run in runs.items():
        path = folder / f"{name} {who} {digest.hexdigest()}.json"
        if path.exists():
            found[who] = np.array(json.loads(path.read_text()))
            continue
        labels = run()
        if labels is not None:
            found[who] = _mean_scores(labels, cases)
            path.write_text(json.dumps(found[who].tolist()))
    return found


def accuracy_rows(settings: Settings) -> Iterator[Row]:
    """Mean IoU from simulated strokes, each image by itself: ours, the forest, convpaint."""
    gaps: list[float] = []
    for name in (*UNSEEN, *SEEN):
        cases = list(_cases(settings, name))
        say(f"{name}: {len(cases)} images")
        scores = {"dinoscope": _mean_scores(_our_labels(settings, cases), cases)}
        scores |= _rival_scores(settings, name, cases)
        marked = " (seen kind)" if name in SEEN else ""
        for k, share in enumerate(SHARES):
            # VGG has random weights here, so it stands beside and sets no bar.
            best = max(
                float(s[k]) for who, s in scores.items() if who in ("forest", "convpaint gaussian")
            )
            ours = float(scores["dinoscope"][k])
            gaps.append(ours - best)
            label = f"{name}{marked}, {100 * share:g} % painted"
            yield Row(f"mean IoU, {label} (more)", ours, best - 0.01, best + 0.03, best)
            for who, values in scores.items():
                if who != "dinoscope":
                    weights = ", random weights" if who.endswith("vgg") else ""
                    yield Row(f"mean IoU, {label}, {who}{weights}", float(values[k]))
    yield Row("mean IoU ahead of the better rival, least (more)", min(gaps), must=-0.01, aim=0.03)
    yield Row("mean IoU ahead of the better rival, mean (more)", float(np.mean(gaps)), must=0.0)


PARTS = {"engine": engine_rows, "lora": lora_step.lora_rows, "accuracy": accuracy_rows}
