"""The bars of speed: every figure a ratio of two things timed in turns within one run.

Rivals live in environments of their own (see `benchmarks.rivals`); without one its rows are left
out, and a note says so. Weights are random where only time is measured.
``DINOSCOPE_BENCH_SMALL=1`` shrinks everything, to try the code; such figures say nothing.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import rivals
from benchmarks.rows import Row
from benchmarks.settings import Settings

SMALL = os.environ.get("DINOSCOPE_BENCH_SMALL") == "1"
BACKBONE = "tiny-test" if SMALL else "dinov2_vits14"
TILE = 126 if SMALL else 518
PLANE = 252 if SMALL else 1024
ROUNDS = 2 if SMALL else 9
#: Matrix products beside each tile, of which the best counts.
PRODUCTS, PRODUCT_SIDE = (2, 256) if SMALL else (24, 2048)
STACK = 3 if SMALL else 20
SIDES = (126, 252) if SMALL else (512, 1024, 2048, 4096)
DECODE = (256, 30) if SMALL else (2048, 2000)
#: Seconds that an image of each size is predicted again and again, in each of so many rounds.
GROWTH_S, GROWTH_ROUNDS = (0.2, 1) if SMALL else (2.0, 4)


def in_turns(works: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, Any]:
    """Seconds of each work, all of them once a round; the first round only warms up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            begun = time.perf_counter()
            work()
            if turn:
                times[name].append(time.perf_counter() - begun)
    return times


def tile_gflop(model: Any, side: int) -> float:
    """Arithmetic of one tile: linear layers, attention, patch embedding; a product counts two."""
    spec = model.backbone.spec
    count = (side // spec.patch) ** 2 + spec.prefix_tokens
    dim, depth = spec.embed_dim, spec.depth
    linear = 24 * count * dim**2
    attention = 4 * count**2 * dim
    embedding = 2 * (count - spec.prefix_tokens) * 3 * spec.patch**2 * dim
    return (depth * (linear + attention) + embedding) / 1e9


def _model(*tasks: str) -> Any:
    from dinoscope.models.model import Model
    from dinoscope.tasks.base import task

    classes = {"semantic": ("background", "cell"), "classification": ("a", "b")}
    heads = {name: task(name).head_spec(classes.get(name, ())) for name in tasks}
    return Model.fresh(BACKBONE, heads, diameter_px=28.0).eval()


def _encoders(model: Any) -> dict[str, Any]:
    """PyTorch as dinoscope runs it, plain modules in fp32, and what else is installed."""
    from dinoscope.models.device import precision_for, set_threads
    from dinoscope.models.runtime.engines import COMPILED, build, installed, torch_encoder

    threads = set_threads(0)
    found = {"torch": torch_encoder(model, "cpu", precision_for("cpu"))}
    for runtime in COMPILED:
        if installed(runtime):
            found[runtime] = build(model, runtime, "cpu", threads)
        else:
            rivals.note(f"{runtime} is not installed: its rows are left out")
    return found


def token_rows(settings: Settings) -> Iterator[Row]:
    """Share of the machine's best matrix product, and ONNX Runtime against PyTorch in fp32."""
    import torch

    from dinoscope.models.device import precision_for

    model = _model()
    encoders = _encoders(model)
    dtype = precision_for("cpu")
    x = torch.rand(1, 3, TILE, TILE)
    a = torch.randn(PRODUCT_SIDE, PRODUCT_SIDE).to(dtype)
    works: dict[str, Callable[[], object]] = {
        name: (lambda encoder=encoder: encoder.encode(x)) for name, encoder in encoders.items()
    }
    works["plain fp32"] = lambda: model.encode(x)
    products = max(1, PRODUCTS // ROUNDS + 1)
    for number in range(products):
        works[f"product {number}"] = lambda: a @ a
    with torch.inference_mode():
        times = in_turns(works)
    best = min(min(v) for name, v in times.items() if name.startswith("product"))
    peak = 2 * PRODUCT_SIDE**3 / 1e9 / best
    kind = str(dtype).removeprefix("torch.")
    yield Row(f"best {kind} product {PRODUCT_SIDE}³ of {ROUNDS * products}, GFLOP/s", peak)
    share = {
        name: 100 * tile_gflop(model, TILE) / min(times[name]) / peak
        for name in encoders
        if name != "onnxruntime" or dtype == torch.float32
    }
    for name, value in share.items():
        bars = {"must": 50.0, "aim": 65.0} if name == "torch" else {}
        yield Row(f"tokens of a {TILE}² tile, {name}: % of that product (more)", value, **bars)
    yield Row(
        f"tokens of a {TILE}² tile, best runtime: % of that product (more)",
        max(share.values()),
        must=72.0,
        aim=85.0,
    )
    for name in encoders:
        yield Row(f"tokens of a {TILE}² tile, {name}, median ms", 1e3 * _median(times[name]))
    if "onnxruntime" in encoders:
        ratio = _median(times["onnxruntime"]) / _median(times["plain fp32"])
        yield Row("ONNX Runtime fp32 against PyTorch fp32 (less)", ratio, must=0.65, aim=0.55)


def int8_rows(settings: Settings) -> Iterator[Row]:
    """The exported embedded model in int8: time against PyTorch fp32, and the objects it loses."""
    import torch

    from dinoscope.engine.parity import ACTIVATIONS, compare, real_tiles
    from dinoscope.models.checkpoint import load_model
    from dinoscope.models.device import set_threads
    from dinoscope.models.export import onnx_model
    from dinoscope.models.quantize import open_onnx, to_int8

    threads = set_threads(0)
    model = load_model("embedded", device="cpu")
    tiles = real_tiles(model, 126 if SMALL else 504)
    graph = onnx_model(model, ["instance"], ACTIVATIONS, fused=True)
    eight = to_int8(graph, [t.pixels[None] for t in tiles])
    run = open_onnx(eight.SerializeToString(), ["instance"], threads)
    batch = tiles[-1].pixels[None]
    with torch.inference_mode():
        times = in_turns(
            {"int8": lambda: run(batch), "fp32": lambda: model(torch.from_numpy(batch))}
        )
    lost = compare(model, run, ["instance"], tiles).instance_ap_difference
    ratio = _median(times["int8"]) / _median(times["fp32"])
    yield Row("int8 export: instance AP that differs (less)", lost, must=0.005)
    yield Row(
        "ONNX Runtime int8 against PyTorch fp32, whole model (less)", ratio, must=0.5, aim=0.4
    )


def predict_rows(settings: Settings) -> Iterator[Row]:
    """A whole Predict against the bare forward of its tiles, and against convpaint's DINOv2."""
    import torch

    from dinoscope.config import PredictOptions
    from dinoscope.engine.predict import run_prediction
    from dinoscope.types import ImageInput

    model = _model()
    encoders = _encoders(model)
    x = torch.rand(1, 3, TILE, TILE)
    pixels = np.random.default_rng(0).integers(0, 60_000, (PLANE, PLANE), np.uint16)
    image = ImageInput(pixels, "YX")
    works: dict[str, Callable[[], object]] = {}
    for name, encoder in encoders.items():
        options = PredictOptions(("pca",), device="cpu", runtime=name)
        works[f"predict {name}"] = lambda o=options: run_prediction(image, model, o)
        works[f"bare {name}"] = lambda e=encoder: [e.encode(x) for _ in range(4)]
    with torch.inference_mode():
        times = {name: _median(values) for name, values in in_turns(works).items()}
    bare = {name: times[f"bare {name}"] for name in encoders}
    best = min(bare, key=lambda name: bare[name])
    yield Row(f"bare forward of four {TILE}² tiles, {best}, s", bare[best])
    whole = times[f"predict {best}"]
    yield Row(f"whole Predict (colours), {PLANE}², {best}, s (less)", whole)
    yield Row("whole Predict over that bare forward (less)", whole / bare[best], must=1.4, aim=1.15)
    rival = rivals.convpaint(PLANE)
    if rival is not None:
        forward, features = rival["forward_s"], rival["features_s"]
        yield Row(
            "whole Predict over convpaint DINOv2's forward alone (less)",
            whole / forward,
            must=1 / 5,
            aim=1 / 9,
            rival_value=forward,
        )
        yield Row(
            "whole Predict over convpaint DINOv2's features at scribbled pixels (less)",
            whole / features,
            must=1 / 15,
            aim=1 / 25,
            rival_value=features,
        )


def heads_rows(settings: Settings) -> Iterator[Row]:
    """All four heads on one pass against four passes with one head each."""
    import torch

    from dinoscope.config import PredictOptions
    from dinoscope.engine.predict import run_prediction
    from dinoscope.types import ImageInput

    tasks = ("instance", "semantic", "depth", "classification")
    model = _model(*tasks)
    pixels = np.random.default_rng(0).integers(0, 60_000, (PLANE, PLANE), np.uint16)
    image = ImageInput(pixels, "YX")

    def run(*names: str) -> None:
        options = PredictOptions(names, device="cpu", diameter_px=28.0)
        run_prediction(image, model, options)

    works: dict[str, Callable[[], object]] = {"all": lambda: run(*tasks)}
    works |= {name: (lambda n=name: run(n)) for name in tasks}
    with torch.inference_mode():
        times = in_turns(works, max(2, ROUNDS // 3))
    apart = sum(_median(times[name]) for name in tasks)
    yield Row(
        "four heads on one pass over four single passes (less)",
        _median(times["all"]) / apart,
        must=0.45,
        aim=0.33,
    )


def stack_rows(settings: Settings) -> Iterator[Row]:
    """Memory of a stack beyond one plane; labels of all its planes from kept tokens."""
    one = _in_a_process("stack", 1)
    many = _in_a_process("stack", STACK)
    results = (STACK - 1) * PLANE * PLANE * 3 * 4 / 1e6
    yield Row(
        f"peak PSS of {STACK} planes of {PLANE}² over one plane's, results apart, MB (less)",
        many["peak_mb"] - one["peak_mb"] - results,
        must=150.0,
        aim=50.0,
    )
    yield Row(
        f"labels of {STACK} planes from kept tokens over one plane's first run (less)",
        many["relabel_s"] / many["first_s"],
        must=3.0,
        aim=1.0,
    )


def growth_rows(settings: Settings) -> Iterator[Row]:
    """Time per pixel and peak memory as the image grows: ViT-S/14, and the embedded model, whose
    small tiles overlap more on a small image than on a large one."""
    for what, label, limits in (
        ("growth", "ViT-S/14, colours", ((1.25, 1.1), (1.5, 1.0))),
        ("growth-embedded", "embedded, objects", ((None, None), (1.5, 1.0))),
    ):
        times = _in_a_process(f"{what}-times", GROWTH_ROUNDS)
        per_pixel = {side: times[str(side)] / side**2 * 1e6 for side in SIDES}
        for side, seconds in per_pixel.items():
            yield Row(f"{label}: Predict of {side}², s per Mpx (less)", seconds)
        spread = max(per_pixel.values()) / min(per_pixel.values())
        yield Row(f"{label}: time per pixel, largest over smallest (less)", spread, *limits[0])
        last = _in_a_process(what, SIDES[-1])
        peak = (last["peak_mb"] - last["base_mb"]) / 1e3
        bar = f"{label}: peak memory at {SIDES[-1]}² over the import base, GB (less)"
        yield Row(bar, peak, *limits[1])


def decode_rows(settings: Settings) -> Iterator[Row]:
    """Objects from maps, against cellpose's dynamics on as many objects."""
    from dinoscope.arrays.decode import decode_instances

    side, count = DECODE
    maps = _discs(side, count)
    seconds = _median(in_turns({"decode": lambda: decode_instances(maps)}, 3)["decode"])
    found = int(decode_instances(maps).max())
    yield Row(f"maps to ids, {side}², {found} objects, s (less)", seconds)
    rival = rivals.cellpose(side, count)
    if rival is not None:
        yield Row(
            "maps to ids over cellpose's compute_masks (less)",
            seconds / rival["seconds"],
            must=1.0,
            aim=0.25,
            rival_value=rival["seconds"],
        )


def _discs(side: int, count: int) -> np.ndarray:
    """Instance maps (3, side, side) uint8 of about `count` discs on a grid."""
    pitch = side / np.ceil(count**0.5)
    places = (np.mgrid[:side, :side] + 0.5) % pitch - pitch / 2
    radius = 0.42 * pitch
    depth = np.clip(1 - np.hypot(*places) / radius, 0, 1)
    return np.rint(255 * np.stack([np.clip(4 * depth, 0, 1), depth, depth])).astype(np.uint8)


def start_rows(settings: Settings) -> Iterator[Row]:
    """The command line, from start to end, against importing what it stands on."""
    import tifffile

    side = 140 if SMALL else 512
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = np.random.default_rng(0).integers(0, 4000, (side, side), np.uint16)
        tifffile.imwrite(folder / "image.tif", data)
        command = ["-m", "dinoscope", "predict", str(folder / "image.tif"), "--task", "instance"]
        command += ["--diameter", "28", "--output", str(folder / "out")]
        works: dict[str, Callable[[], object]] = {
            "predict": lambda: subprocess.run(
                [sys.executable, *command], check=True, capture_output=True
            ),
            "imports": lambda: subprocess.run(
                [sys.executable, "-c", "import torch, timm"], check=True
            ),
        }
        times = in_turns(works, 2 if SMALL else 5)
    yield Row("import torch, timm: a process, s", _median(times["imports"]))
    yield Row(
        f"command line, embedded, {side}²: whole process over that (less)",
        _median(times["predict"]) / _median(times["imports"]),
        must=2.0,
        aim=1.2,
    )


def frame_rows(settings: Settings) -> Iterator[Row]:
    """Frames of 512² a second with the embedded model, objects included."""
    from dinoscope.config import PredictOptions
    from dinoscope.engine.predict import run_prediction
    from dinoscope.models.checkpoint import load_model
    from dinoscope.types import ImageInput

    side = 140 if SMALL else 512
    model = load_model("embedded", device="cpu")
    pixels = np.random.default_rng(0).integers(0, 4000, (side, side), np.uint16)
    image = ImageInput(pixels, "YX")
    options = PredictOptions(("instance",), device="cpu", diameter_px=28.0)
    work = {"frame": lambda: run_prediction(image, model, options)}
    yield Row(
        f"frames of {side}² a second, embedded model (more)",
        1 / _median(in_turns(work)["frame"]),
        must=2.0,
    )


def _median(values: list[float]) -> float:
    return statistics.median(values)


# -- processes of their own -----------------------------------------------------------------------


def _in_a_process(what: str, number: int) -> dict[str, float]:
    """Run a function of this module in a fresh process, for its memory."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed", what, str(number)],
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def stack_run(planes: int) -> dict[str, float]:
    """A stack in a fresh process: the memory of its Predict, then strokes on its first plane and
    labels of all planes by the scribble session, whose tokens were kept."""
    from benchmarks.memory import PeakMemory
    from dinoscope.config import AnnotateOptions, PredictOptions
    from dinoscope.engine.explore.store import TokenStore
    from dinoscope.engine.predict import predict, run_prediction
    from dinoscope.engine.scribble.session import ScribbleSession
    from dinoscope.models.device import set_threads
    from dinoscope.types import ImageInput, PlaneOutput

    model = _model()
    rng = np.random.default_rng(0)
    data = rng.integers(0, 60_000, (planes, PLANE, PLANE), np.uint16)
    stack = ImageInput(data, "ZYX")
    options = PredictOptions(("pca",), device="cpu", runtime="torch")
    run_prediction(ImageInput(data[0], "YX"), model, options)
    with PeakMemory(os.getpid()) as watched:
        kept = [
            np.array(output.arrays["pca"])
            for output in predict(stack, model, options)
            if isinstance(output, PlaneOutput)
        ]
    del kept
    threads = set_threads(0)
    asked = AnnotateOptions(device="cpu", zoom=1.0, threads=threads)
    session = ScribbleSession(model, asked, TokenStore(), threads=threads)
    pixels = np.concatenate([np.arange(200) + PLANE * row for row in (40, 80, 120)])
    codes = np.repeat([1, 2, 3], 200).astype(np.uint8)

    def labels(index: int) -> np.ndarray:
        features = _end(session.features("stack", (index,), stack))
        if index == 0:
            session.set_strokes("stack", (0,), pixels, codes)
            session.fit()
        found: np.ndarray = session.predict("stack", (index,), features).labels
        return found

    begun = time.perf_counter()
    labels(0)
    first = time.perf_counter() - begun
    for index in range(1, planes):
        _end(session.features("stack", (index,), stack))
    codes = np.roll(codes, 100)  # other strokes: every plane is labelled anew
    begun = time.perf_counter()
    for index in range(planes):
        labels(index)
    return {
        "peak_mb": watched.peak_mb,
        "first_s": first,
        "relabel_s": time.perf_counter() - begun,
    }


def _end(steps: Any) -> Any:
    """What a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def growth_run(side: int, *, embedded: bool = False) -> dict[str, float]:
    """One plane in a fresh process; its peak over what imports and model take."""
    from benchmarks.memory import PeakMemory, pss_mb

    run = _growing(embedded)
    run(140)
    base = pss_mb(os.getpid())
    with PeakMemory(os.getpid()) as watched:
        run(side)
    return {"peak_mb": watched.peak_mb, "base_mb": base}


def growth_times(rounds: int, *, embedded: bool = False) -> dict[str, float]:
    """Median seconds of one plane of each size; sizes in turns, small ones several times."""
    run = _growing(embedded)
    run(SIDES[-1])
    times: dict[int, list[float]] = {side: [] for side in SIDES}
    for side in SIDES * rounds:
        begun = last = time.perf_counter()
        while last - begun < GROWTH_S:
            run(side)
            now = time.perf_counter()
            times[side].append(now - last)
            last = now
    return {str(side): _median(seconds) for side, seconds in times.items()}


def _growing(embedded: bool) -> Callable[[int], object]:
    """A prediction of a plane of any size."""
    from dinoscope.config import PredictOptions
    from dinoscope.engine.predict import run_prediction
    from dinoscope.models.checkpoint import load_model
    from dinoscope.types import ImageInput

    model = load_model("embedded", device="cpu") if embedded else _model()
    task = "instance" if embedded else "pca"
    options = PredictOptions((task,), device="cpu", diameter_px=28.0, runtime="torch")
    cells = cache(_cells)
    return lambda side: run_prediction(ImageInput(cells(side), "YX"), model, options)


def _cells(side: int) -> np.ndarray:
    """Blurred discs 42 px apart, ``(side, side)`` uint16."""
    places = (np.arange(side) % 42 - 20.5) ** 2
    square = places[:, None] + places[None]
    return (300 + 3000 * np.exp(-square / 180)).astype(np.uint16)


PARTS = {
    "tokens": token_rows,
    "int8": int8_rows,
    "predict": predict_rows,
    "heads": heads_rows,
    "stack": stack_rows,
    "growth": growth_rows,
    "decode": decode_rows,
    "start": start_rows,
    "frames": frame_rows,
}

if __name__ == "__main__":
    runs = {
        "stack": stack_run,
        "growth": growth_run,
        "growth-times": growth_times,
        "growth-embedded": partial(growth_run, embedded=True),
        "growth-embedded-times": partial(growth_times, embedded=True),
    }
    print(json.dumps(runs[sys.argv[1]](int(sys.argv[2]))))
