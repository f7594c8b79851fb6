"""Encoders: pixels to tokens by PyTorch, ONNX Runtime or OpenVINO, all called the same way."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dinoscope.errors import InputError, MissingLibraryError
from dinoscope.models.backbone import FeatureMap
from dinoscope.models.device import precision_for, torch
from dinoscope.models.model import Model
from dinoscope.models.runtime.graph import backbone_model
from dinoscope.models.runtime.packed import PackedVit
from dinoscope.models.runtime.parts import Parts, take_apart

if TYPE_CHECKING:
    from torch import Tensor

#: Encoders besides PyTorch's: what must be installed, the extra that brings it, its name.
COMPILED = {
    "openvino": ("openvino", "all", "OpenVINO"),
    "onnxruntime": ("onnxruntime", "all", "ONNX Runtime"),
}


#: Tiles of one shape from which on it pays to compile for that shape, which takes a quarter of a
#: second.
_TILES_THAT_PAY = 16


@dataclass(frozen=True)
class Encoder:
    """One way to compute tokens.

    `encode` takes ``(B, 3, Y, X)`` float pixels in about [0, 1], sides multiples of the patch, and
    returns a `FeatureMap`; `runtime` is ``torch``, ``compile``, ``openvino`` or
    ``onnxruntime``; `detail` tells people what computes, and how.
    """

    runtime: str
    detail: str
    encode: Callable[[Tensor], FeatureMap]


def installed(runtime: str) -> bool:
    """Whether the libraries that a runtime needs are there."""
    if runtime == "torch":
        return True
    return all(
        importlib.util.find_spec(name) is not None for name in (COMPILED[runtime][0], "onnx")
    )


def require(runtime: str, device: str) -> None:
    """Check that a runtime that was asked for by hand can be used.

    Raises
    ------
    MissingLibraryError
        It is not installed.
    InputError
        It does not compute on that device.
    """
    if runtime in ("auto", "torch", "compile"):
        return
    library, extra, title = COMPILED[runtime]
    for needed in (library, "onnx"):
        if importlib.util.find_spec(needed) is None:
            raise MissingLibraryError(needed, extra, f"runtime {runtime!r} ({title})")
    if device == "cpu" or (runtime == "onnxruntime" and device == "cuda" and _has_cuda_provider()):
        return
    raise InputError(
        f"runtime is {runtime!r} on device {device!r}",
        expected="device cpu, or runtime torch",
        hint="For cards, ONNX Runtime needs the package onnxruntime-gpu."
        if runtime == "onnxruntime"
        else "",
    )


def _has_cuda_provider() -> bool:
    runtime = importlib.import_module("onnxruntime")
    return "CUDAExecutionProvider" in runtime.get_available_providers()


def torch_encoder(
    model: Model, device: str, dtype: torch.dtype | None, *, compiled: bool = False
) -> Encoder:
    """PyTorch on any device.

    In 16 bits by `PackedVit`, whose weights are rounded once; else the modules themselves, and
    through ``torch.compile`` where `compiled`: the first tile of each size then takes up to
    minutes.
    """
    kind = torch.device(device).type
    exact = dtype in (None, torch.float32)
    name = "float32" if exact else str(dtype).removeprefix("torch.")
    if not exact and dtype is not None and kind in ("cpu", "cuda") and not compiled:
        with contextlib.suppress(InputError):  # built otherwise: its modules know how
            return Encoder("torch", f"PyTorch, {name}", PackedVit(take_apart(model), dtype, device))
    forward = torch.compile(model.backbone) if compiled else model.encode
    detail = f"PyTorch, {name}" + (", compiled" if compiled else "")

    def encode(x: Tensor) -> FeatureMap:
        with torch.autocast(kind, dtype, enabled=not exact):
            return forward(x)

    return Encoder("compile" if compiled else "torch", detail, encode)


def build(model: Model, runtime: str, device: str, threads: int) -> Encoder:
    """An encoder of a compiled runtime, from a merged copy of the backbone.

    Raises
    ------
    MissingLibraryError, InputError
        See `require`.
    """
    require(runtime, device)
    parts = take_apart(model)
    builders = {"openvino": _openvino, "onnxruntime": _onnxruntime}
    return builders[runtime](parts, device, threads)


class _OpenVino:
    """OpenVINO on the CPU; single tiles by all threads, many of one shape two at a time.

    Two halves of the threads, each with a tile, wait for each other less; and layers compiled for
    one shape are quicker than those for any (together a tenth on two cores).
    """

    def __init__(self, parts: Parts, threads: int) -> None:
        self._openvino: Any = importlib.import_module("openvino")
        self._core = self._openvino.Core()
        self.exact = precision_for("cpu") != torch.bfloat16
        self._settings = {
            "INFERENCE_PRECISION_HINT": "f32" if self.exact else "bf16",
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # the window and other programs want to run too
        }
        self._parts = parts
        self._graph = backbone_model(parts)
        self._any = self._compiled(None, {"PERFORMANCE_HINT": "LATENCY"})
        self._streams = 2 if threads > 1 else 1
        self._seen: dict[tuple[int, ...], int] = {}
        self._paired: tuple[tuple[int, ...], Any] | None = None
        self._lock = threading.Lock()

    def _compiled(self, shape: tuple[int, ...] | None, settings: dict[str, Any]) -> Any:
        graph = self._core.read_model(self._graph)
        if shape is not None:
            graph.reshape({graph.inputs[0]: shape})
        return self._core.compile_model(graph, "CPU", {**self._settings, **settings})

    def _pairs(self, tiles: int, shape: tuple[int, ...]) -> Any:
        """What computes two tiles of a shape at a time, once enough of them were seen."""
        with self._lock:
            self._seen[shape] = self._seen.get(shape, 0) + tiles
            if self._streams == 1 or self._seen[shape] < _TILES_THAT_PAY:
                return None
            if self._paired is None or self._paired[0] != shape:
                self._paired = shape, self._compiled((1, *shape), {"NUM_STREAMS": self._streams})
            return self._paired[1]

    def __call__(self, x: Tensor) -> FeatureMap:
        pixels = _pixels(x)
        found: list[Any] = []
        pairs = self._pairs(len(pixels), pixels.shape[1:])
        if pairs is not None:
            found = self._two_at_a_time(pairs, pixels[: len(pixels) // 2 * 2])
        if len(found) < len(pixels):
            # A request of its own: another thread may be encoding too.
            rest = self._any.create_infer_request().infer([pixels[len(found) :]], share_inputs=True)
            found.append((rest[0], rest[1]))
        patch_tokens, cls_token = (np.concatenate(part) for part in zip(*found, strict=True))
        return _features(self._parts, patch_tokens, cls_token, x.device)

    def _two_at_a_time(self, compiled: Any, pixels: np.ndarray) -> list[Any]:
        # Requests that are waited for, not a queue with a callback: OpenVINO's threads must never
        # want the interpreter's lock, as whoever drops the compiled model holds it and waits for
        # them (both then wait for ever).
        requests = [compiled.create_infer_request() for _ in range(self._streams)]
        found: list[Any] = []
        for number in range(len(pixels) + self._streams):
            request = requests[number % self._streams]
            if number >= self._streams:  # its tile before
                request.wait()
                outputs = (request.get_output_tensor(i).data for i in (0, 1))
                found.append(tuple(output.copy() for output in outputs))
            if number < len(pixels):
                request.start_async([pixels[number : number + 1]], share_inputs=True)
        return found


def _openvino(parts: Parts, device: str, threads: int) -> Encoder:
    encode = _OpenVino(parts, threads)
    return Encoder("openvino", f"OpenVINO, {'float32' if encode.exact else 'bfloat16'}", encode)


def _onnxruntime(parts: Parts, device: str, threads: int) -> Encoder:
    ort: Any = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Threads that spin while they wait would take the cores from the heads, which PyTorch computes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    if device == "cuda":
        providers.insert(0, "CUDAExecutionProvider")
    session = ort.InferenceSession(backbone_model(parts, fused=True), options, providers=providers)

    def encode(x: Tensor) -> FeatureMap:
        patch_tokens, cls_token = session.run(None, {"image": _pixels(x)})
        return _features(parts, patch_tokens, cls_token, x.device)

    where = "CUDA" if session.get_providers()[0].startswith("CUDA") else "CPU"
    return Encoder("onnxruntime", f"ONNX Runtime on {where}, float32", encode)


def _pixels(x: Tensor) -> np.ndarray:
    return np.ascontiguousarray(x.detach().float().cpu().numpy())


def _features(
    parts: Parts, patch_tokens: np.ndarray, cls_token: np.ndarray, device: torch.device
) -> FeatureMap:
    maps = torch.from_numpy(np.asarray(patch_tokens, np.float32)).to(device)
    cls = torch.from_numpy(np.asarray(cls_token, np.float32)).to(device)
    return FeatureMap(maps, cls, parts.dim)
