"""Exported graphs run by ONNX Runtime or OpenVINO, and their int8 versions (static, calibrated)."""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.errors import MissingLibraryError
from dinoscope.models.runtime.graph import import_onnx


def _import(library: str, extra: str, purpose: str) -> Any:
    if importlib.util.find_spec(library) is None:
        raise MissingLibraryError(library, extra, purpose)
    return importlib.import_module(library)


def open_onnx(
    data: bytes, outputs: Sequence[str], threads: int = 0
) -> Callable[[np.ndarray], Mapping[str, np.ndarray]]:
    """A function from ``image`` to named outputs, by ONNX Runtime on the CPU.

    Raises
    ------
    MissingLibraryError
        onnxruntime is not installed.
    """
    ort = _import("onnxruntime", "export", "checking an ONNX file")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(batch: np.ndarray) -> Mapping[str, np.ndarray]:
        return dict(zip(outputs, session.run(list(outputs), {"image": batch}), strict=True))

    return run


def open_openvino(
    path: Path, outputs: Sequence[str], threads: int = 0
) -> Callable[[np.ndarray], Mapping[str, np.ndarray]]:
    """The same by OpenVINO, in float32.

    Raises
    ------
    MissingLibraryError
        openvino is not installed.
    """
    openvino = _import("openvino", "all", "checking an OpenVINO file")
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)

    def run(batch: np.ndarray) -> Mapping[str, np.ndarray]:
        found = compiled(batch)
        return {name: np.array(found[name]) for name in outputs}

    return run


def to_int8(found: Any, tiles: Sequence[np.ndarray]) -> Any:
    """A ``ModelProto`` whose transformer's linear layers compute in int8.

    Ranges of activations come from `tiles`; weights are rounded by output channel. What the layers
    give is not rounded again, so the next sum or GELU needs no conversion. Attention's own
    products, norms, the decoder and the heads stay in floating point: with the decoder's
    convolutions in int8, objects differed by 0.05 to 0.07 of AP (embedded model), without by 0.002.

    Parameters
    ----------
    found : ModelProto
        In float32.
    tiles : sequence of ndarray
        ``(B, 3, y, x)`` float32, such as the user's images give.

    Raises
    ------
    MissingLibraryError
        onnxruntime is not installed.
    """
    _import("onnxruntime", "export", "int8")
    onnx = import_onnx()
    quantization = importlib.import_module("onnxruntime.quantization")

    class Tiles(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        """Hands out one tile after the other."""

        def __init__(self) -> None:
            self.rest = iter(tiles)

        def get_next(self) -> dict[str, np.ndarray] | None:
            """The next tile; ``None`` at the end."""
            tile = next(self.rest, None)
            return None if tile is None else {"image": tile}

    # What comes out of an operator of ONNX Runtime's own is unknown to ONNX's inference of types.
    found = _with_types(onnx, found)
    kept = [node.name for node in found.graph.node if any(".out.weight" in i for i in node.input)]
    with tempfile.TemporaryDirectory() as name:
        before, after = Path(name) / "before.onnx", Path(name) / "after.onnx"
        onnx.save(found, before)
        quantization.quantize_static(
            before,
            after,
            Tiles(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Gemm"],
            nodes_to_exclude=kept,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
        )
        quantized = onnx.load(after)
    onnx.helper.set_model_props(quantized, {p.key: p.value for p in found.metadata_props})
    return quantized


def _with_types(onnx: Any, found: Any) -> Any:
    """A copy whose fused attention, and what follows it, is said to be float32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(found)
    fused = [n.output[0] for n in copy.graph.node if n.op_type == "MultiHeadAttention"]
    reshaped = [
        n.output[0] for n in copy.graph.node if n.op_type == "Reshape" and n.input[0] in fused
    ]
    for name in (*fused, *reshaped):
        kind = onnx.TensorProto.FLOAT
        copy.graph.value_info.append(onnx.helper.make_tensor_value_info(name, kind, None))
    return copy
