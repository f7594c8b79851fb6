"""Encoders: pixels to tokens by PyTorch, ONNX Runtime or OpenVINO, all called the same way."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
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


def _openvino(parts: Parts, device: str, threads: int) -> Encoder:
    openvino: Any = importlib.import_module("openvino")
    core = openvino.Core()
    fast = precision_for("cpu") == torch.bfloat16
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if fast else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # the window and other programs want to run too
    }
    compiled = core.compile_model(core.read_model(backbone_model(parts)), "CPU", settings)

    def encode(x: Tensor) -> FeatureMap:
        # A request of its own: another thread may be encoding too.
        found = compiled.create_infer_request().infer([_pixels(x)], share_inputs=True)
        return _features(parts, found[0], found[1], x.device)

    return Encoder("openvino", f"OpenVINO, {'bfloat16' if fast else 'float32'}", encode)


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
    maps = torch.from_numpy(np.array(patch_tokens, np.float32)).to(device)
    cls = torch.from_numpy(np.array(cls_token, np.float32)).to(device)
    return FeatureMap(maps, cls, parts.dim)
