"""Absolute figures on a graphics card, in under a minute: ``python benchmarks/gpu.py --json F``.

Needs torch, timm, peft, scikit-image, tifffile and safetensors; no window, no network, no data:
weights of published sizes are random, which changes no time. Each part stands alone: one that
fails is written down with its error, and those that the time does not suffice for are left out.
The JSON file is written after every part.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

#: The limit counts imports too.
BEGAN = time.monotonic()
ROOT = Path(__file__).resolve().parent.parent
for folder in (ROOT / "src", ROOT):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from dinoscope.models.device import torch  # noqa: E402

#: Seconds that one timed thing may take.
SHARE_S = 0.6


@dataclass
class Bench:
    """What the parts share: where they run, how large they are, what they found."""

    device: str
    small: bool
    limit_s: float
    begun: float = BEGAN
    rows: list[dict[str, Any]] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    #: Measured peak of matrix products by dtype, TFLOP/s.
    peaks: dict[str, float] = field(default_factory=dict)

    @property
    def left_s(self) -> float:
        """Seconds until the limit."""
        return self.limit_s - (time.monotonic() - self.begun)

    def row(self, what: str, value: float, **bars: float) -> None:
        """Keep and print one figure."""
        self.rows.append({"bar": what, "value": value, **bars})
        shown = "".join(f"  {name} {bar:g}" for name, bar in bars.items())
        print(f"{value:12.5g}  {what}{shown}", flush=True)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def times(self, work: Callable[[], object], share_s: float = SHARE_S) -> list[float]:
        """Seconds of single runs of `work`, after two that only warm up."""
        for _ in range(2):
            work()
        self.wait()
        found: list[float] = []
        until = time.perf_counter() + share_s
        while len(found) < 3 or (time.perf_counter() < until and len(found) < 500):
            begun = time.perf_counter()
            work()
            self.wait()
            found.append(time.perf_counter() - begun)
        return found

    def rate(self, work: Callable[[], object], share_s: float = SHARE_S) -> float:
        """Seconds of one run among many that follow each other without waiting between them."""
        single = statistics.median(self.times(work, share_s / 3))
        count = max(2, min(2000, int(share_s / max(single, 1e-5))))
        begun = time.perf_counter()
        for _ in range(count):
            work()
        self.wait()
        return (time.perf_counter() - begun) / count

    def dtypes(self) -> list[Any]:
        """Reduced precisions that are measured."""
        return [torch.float16, torch.bfloat16] if self.device == "cuda" else [torch.bfloat16]


def short(dtype: Any) -> str:
    """``bfloat16`` and the like."""
    return str(dtype).removeprefix("torch.")


def machine(device: str) -> dict[str, Any]:
    """What was measured on."""
    import platform

    facts: dict[str, Any] = {
        "device": device,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        facts |= {
            "card": str(card.name),
            "memory_gb": round(card.total_memory / 1e9, 1),
            "capability": f"{card.major}.{card.minor}",
            "cuda": str(torch.version.cuda),
        }
    return facts


# -- parts -----------------------------------------------------------------------------------------


def products(bench: Bench) -> None:
    """The card's best matrix product in each precision: what shares are taken of."""
    sides = (256,) if bench.small else (4096, 8192)
    for dtype in [*bench.dtypes(), torch.float32]:
        best = 0.0
        for side in sides:
            a = torch.randn(side, side, device=bench.device).to(dtype)
            b = torch.randn(side, side, device=bench.device).to(dtype)
            with torch.inference_mode():
                seconds = bench.rate(lambda a=a, b=b: a @ b, 0.3)
            best = max(best, 2 * side**3 / seconds / 1e12)
        bench.peaks[short(dtype)] = best
        bench.row(f"best {short(dtype)} matrix product, TFLOP/s", best)


def throughput(bench: Bench) -> None:
    """Images of 518² a second through the backbone as the package runs it."""
    from benchmarks.speed import tile_gflop
    from dinoscope.models.model import Model
    from dinoscope.models.runtime.choose import agreement
    from dinoscope.models.runtime.engines import torch_encoder

    side = 112 if bench.small else 518
    names = ("tiny-test",) if bench.small else ("dinov2_vits14", "embedded")
    for name in names:
        model = Model.fresh(name).to(bench.device).eval()
        gflop = tile_gflop(model, side)
        for dtype in bench.dtypes():
            encoder = torch_encoder(model, bench.device, dtype)
            cosine = agreement(model, encoder, bench.device)
            bench.row(f"{name}, {short(dtype)}: cosine of its tokens to float32", cosine)
            for batch in (1, 2) if bench.small else (1, 64):
                x = torch.rand(batch, 3, side, side, device=bench.device)
                with torch.inference_mode():
                    seconds = bench.rate(lambda e=encoder, x=x: e.encode(x))
                    single = statistics.median(bench.times(lambda e=encoder, x=x: e.encode(x), 0.2))
                label = f"{name}, {short(dtype)}, batch {batch}, {side}²"
                bench.row(f"{label}: images/s", batch / seconds)
                bench.row(f"{label}: median ms, one after the other", 1e3 * single)
                peak = bench.peaks.get(short(dtype))
                if peak:
                    share = 100 * batch * gflop / 1e3 / seconds / peak
                    bench.row(f"{label}: % of the measured product", share)


def large_rival(bench: Bench) -> None:
    """A network of cellpose-SAM's size (ViT-L, 1024 tokens of 8 px, 256² tiles), for scale."""
    import timm

    with torch.device(bench.device):  # drawing 305 million numbers takes seconds on a CPU
        net = timm.create_model(
            "vit_tiny_patch16_224" if bench.small else "vit_large_patch16_224",
            pretrained=False,
            img_size=64 if bench.small else 256,
            patch_size=8,
            num_classes=0,
            dynamic_img_size=False,
        )
    net = net.eval().to(torch.bfloat16)
    count = sum(p.numel() for p in net.parameters()) / 1e6
    bench.row("cellpose-SAM-size network: million parameters", count)
    side = 64 if bench.small else 256
    for batch in (1, 2) if bench.small else (1, 64):
        x = torch.rand(batch, 3, side, side, device=bench.device, dtype=torch.bfloat16)
        with torch.inference_mode():
            seconds = bench.rate(lambda x=x: net.forward_features(x))
        bench.row(f"the same, bfloat16, batch {batch}: tiles of {side}² a second", batch / seconds)
        # Its tiles overlap by a tenth: 25 of them cover 1024².
        bench.row(f"the same, batch {batch}: s for 1024² (25 tiles)", 25 * seconds / batch)


def discs(side: int, pitch: int = 42) -> tuple[np.ndarray, np.ndarray]:
    """Blurred discs on a grid: pixels uint16 and ids int32, ``(side, side)``."""
    places = np.arange(side) % pitch - (pitch - 1) / 2
    square = places[:, None] ** 2 + places[None] ** 2
    cell = np.arange(side) // pitch
    ids = 1 + cell[:, None] * (cell[-1] + 1) + cell[None]
    pixels = 300 + 3000 * np.exp(-square / (0.1 * pitch**2))
    return pixels.astype(np.uint16), np.where(square < (0.36 * pitch) ** 2, ids, 0).astype(np.int32)


def tuning(bench: Bench) -> None:
    """A step of LoRA fine-tuning (rank 8, 8 crops of 224), by the package's own loop."""
    from dinoscope.engine.augment import Augmentation
    from dinoscope.engine.batches import BatchSource, CropPlan
    from dinoscope.engine.dataset import ImageSet, TrainingImage
    from dinoscope.engine.fit import FitOptions, fit
    from dinoscope.models.adapter import AdapterConfig, add_lora
    from dinoscope.models.model import Model
    from dinoscope.tasks.base import task

    class Same(BatchSource):
        """One batch, made once: the network is timed, not the cutting of crops."""

        def __getitem__(self, step: int) -> Any:
            if not hasattr(self, "kept"):
                self.kept = super().__getitem__(0)
            return self.kept

    pixels, ids = discs(512)
    image = np.repeat((pixels / pixels.max()).astype(np.float16)[None], 3, 0)
    source = ImageSet("discs", [TrainingImage("discs", "discs", image, {"instance": ids}, 28.0)])
    plan = CropPlan(112 if bench.small else 224, None, 1.0, Augmentation())
    names = ("tiny-test",) if bench.small else ("dinov2_vits14", "embedded", "dinov2_vitb14")
    for name in names:
        model = Model.fresh(name, {"instance": task("instance").head_spec(())})
        model.backbone.requires_grad_(False)
        add_lora(model, AdapterConfig(rank=8))
        before_mb = 0.0
        if bench.device == "cuda":
            gc.collect()  # what earlier parts held
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before_mb = torch.cuda.memory_allocated() / 1e6
        kinds = ("same batch", "fresh crops") if name == names[0] else ("same batch",)
        for kind in kinds:
            made = Same if kind == "same batch" else BatchSource
            settings = FitOptions(
                seconds=None,
                steps=6 if bench.small else 40,
                learning_rate=1e-4,
                weight_decay=0.01,
                autocast=torch.bfloat16,
                device=bench.device,
                workers=0 if kind == "same batch" else 1,
            )
            times = []
            before = time.perf_counter()
            for _ in fit(model, made([source], plan, 8, 0), settings):
                bench.wait()
                now = time.perf_counter()
                times.append(now - before)
                before = now
            step = statistics.median(times[2:])
            bench.row(f"LoRA r=8, {name}, 8 crops of {plan.crop_px}, {kind}: step ms", 1e3 * step)
        if bench.device == "cuda":
            memory = torch.cuda.max_memory_allocated() / 1e6 - before_mb
            bench.row(f"LoRA r=8, {name}: peak memory of the card, MB", memory)
        del model


def frames(bench: Bench) -> None:
    """Frames of 512² a second through a whole Predict with the embedded model, objects included."""
    from dinoscope.config import PredictOptions
    from dinoscope.engine.predict import predict, run_prediction
    from dinoscope.models.checkpoint import load_model
    from dinoscope.types import ImageInput, PlaneOutput

    side = 140 if bench.small else 512
    model = load_model("embedded", device=bench.device)
    pixels, _ = discs(side)
    options = PredictOptions(("instance",), device=bench.device, diameter_px=28.0)
    image = ImageInput(pixels, "YX")
    times = bench.times(lambda: run_prediction(image, model, options), 2.0)
    bench.row(
        f"frames of {side}² a second, embedded, instance, one image a call",
        1 / statistics.median(times),
        must=10.0,
    )
    arrays, _, _, summary = run_prediction(image, model, options)
    bench.row("objects in that frame", float(arrays["instance"].max()))
    for part in ("encode", "decode", "assemble", "other"):
        bench.row(f"  of which {part}, ms", 1e3 * summary.seconds[part])
    planes = 4 if bench.small else 40
    stack = ImageInput(np.repeat(pixels[None], planes, 0), "TYX")
    stamps = [
        time.perf_counter()
        for event in predict(stack, model, options)
        if isinstance(event, PlaneOutput)
    ]
    bench.row(
        f"frames of {side}² a second, embedded, instance, a time series",
        (planes - 1) / (stamps[-1] - stamps[0]),
        must=10.0,
    )
    large = ImageInput(discs(280 if bench.small else 2048)[0], "YX")
    times = bench.times(lambda: run_prediction(large, model, options), 1.5)
    bench.row("Predict (objects) of 2048², embedded, s", statistics.median(times))


def compiled(bench: Bench) -> None:
    """The same network through ``torch.compile`` (only with ``--compile``: it takes long)."""
    from dinoscope.models.model import Model
    from dinoscope.models.runtime.engines import torch_encoder

    side = 112 if bench.small else 518
    model = Model.fresh("tiny-test" if bench.small else "dinov2_vits14").to(bench.device).eval()
    encoder = torch_encoder(model, bench.device, torch.bfloat16, compiled=True)
    for batch in (1, 2) if bench.small else (1, 64):
        x = torch.rand(batch, 3, side, side, device=bench.device)
        with torch.inference_mode():
            seconds = bench.rate(lambda x=x: encoder.encode(x))
        bench.row(f"ViT-S/14 compiled, bfloat16, batch {batch}, {side}²: images/s", batch / seconds)


#: Parts in the order of what matters, with the seconds that must be left to begin one.
PARTS: dict[str, tuple[Callable[[Bench], None], float]] = {
    "products": (products, 5.0),
    "throughput": (throughput, 8.0),
    "frames": (frames, 6.0),
    "tuning": (tuning, 6.0),
    "large": (large_rival, 5.0),
}


def selected(args: argparse.Namespace) -> Iterator[tuple[str, Callable[[Bench], None], float]]:
    """Parts that were asked for."""
    parts = dict(PARTS)
    if args.compile:
        parts["compiled"] = (compiled, 20.0)
    for name, (part, needs) in parts.items():
        if not args.only or name in args.only:
            yield name, part, needs


def main(argv: list[str] | None = None) -> int:
    """Run the parts; 0 done, 1 a part failed or was left out, 3 the limit ended it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="file for the figures")
    parser.add_argument("--limit", type=float, default=57.0, help="seconds in all; then it ends")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the code")
    parser.add_argument("--compile", action="store_true", help="torch.compile too (slow to begin)")
    parser.add_argument("--only", nargs="+", choices=[*PARTS, "compiled"], metavar="PART")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no CUDA card here (--device cpu tries the code)", file=sys.stderr)
        return 2
    os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is ever fetched
    bench = Bench(args.device, args.small, args.limit)
    facts = machine(args.device)
    print(json.dumps(facts), flush=True)

    def write(ended: str = "") -> None:
        document = {
            "machine": facts,
            "rows": bench.rows,
            "seconds": bench.seconds,
            "errors": bench.errors,
            "total_s": round(time.monotonic() - bench.begun, 1),
            "ended": ended,
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    def give_up() -> None:
        write("the limit was reached")
        print("the limit was reached: what was found until now is written", flush=True)
        os._exit(3)  # a thread cannot end a kernel that hangs

    guard = threading.Timer(max(1.0, bench.left_s), give_up)
    guard.daemon = True
    guard.start()
    for name, part, needs in selected(args):
        if bench.left_s < needs:
            bench.errors[name] = f"left out: {bench.left_s:.0f} s were left"
            continue
        begun = time.monotonic()
        try:
            part(bench)
        except Exception as error:
            bench.errors[name] = "".join(traceback.format_exception(error))[-2000:]
            print(f"{name} failed: {type(error).__name__}: {error}", flush=True)
        bench.seconds[name] = round(time.monotonic() - begun, 1)
        write()
    guard.cancel()
    write("done")
    print(json.dumps({"seconds": bench.seconds, "errors": list(bench.errors)}), flush=True)
    return 1 if bench.errors else 0


if __name__ == "__main__":
    raise SystemExit(main())
