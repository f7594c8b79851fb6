"""Ways to make ONNX Runtime faster that were tried, beside what the processor could give at most.

A bar of the suite `speed` asks for 0.65 of PyTorch's time in float32 and half of it in int8. These
rows show how near each way comes, what its objects lose, and where float32 arithmetic itself ends.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch

from benchmarks.rows import Row
from benchmarks.settings import Settings
from benchmarks.speed import PRODUCT_SIDE, SMALL, TILE, _median, _model, in_turns, tile_gflop

TURNS = 1 if SMALL else 5
#: Rows of queries in a block of attention that is written out.
BLOCK = 32 if SMALL else 256
#: Side of the embedded model's tile in the bar, and of the tiles it works with.
LARGE, OWN = (126, 126) if SMALL else (504, 252)

Work = Callable[[], object]


def onnx_rows(settings: Settings) -> Iterator[Row]:
    """Float32 of a ViT-S/14, then int8 of the embedded model."""
    yield from float_rows()
    yield from int8_rows()


def session(data: bytes, threads: int, level: str = "ALL", **entries: str) -> Any:
    """A session of ONNX Runtime whose threads do not spin, unless `entries` say otherwise."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    for key, value in {"allow_spinning": "0", **entries}.items():
        options.add_session_config_entry(f"session.intra_op.{key}", value)
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def float_rows() -> Iterator[Row]:
    """A 518² tile in float32 each way, and the products that bound it, in turns."""
    from dinoscope.models.device import set_threads
    from dinoscope.models.runtime.graph import backbone_model
    from dinoscope.models.runtime.parts import take_apart

    threads = set_threads(0)
    model = _model()
    parts = take_apart(model)
    x = torch.rand(1, 3, TILE, TILE)
    pixels, pair = x.numpy(), np.repeat(x.numpy(), 2, 0)
    fused, plain = backbone_model(parts, fused=True), backbone_model(parts)
    sessions = {
        "as shipped (fused attention)": session(fused, threads),
        "threads that spin": session(fused, threads, allow_spinning="1"),
        "one thread pinned": session(fused, threads, thread_affinities="2"),
        "attention of standard nodes": session(plain, threads),
        f"attention in blocks of {BLOCK} rows": session(in_blocks(plain, TILE), threads),
        "no optimisation of layouts": session(fused, threads, "EXTENDED"),
    }
    works: dict[str, Work] = {"PyTorch": lambda: model.encode(x)}
    for name, each in sessions.items():
        works[name] = lambda each=each: each.run(None, {"image": pixels})
    shipped = sessions["as shipped (fused attention)"]
    works["two tiles at once"] = lambda: shipped.run(None, {"image": pair})
    other = _openvino(plain, threads)
    if other is not None:
        works["OpenVINO float32"] = lambda: other(pixels)
    products = _products(threads)
    with torch.inference_mode():
        times = in_turns({**works, **products}, TURNS)
    work = 2 * PRODUCT_SIDE**3 / 1e9
    for name in products:
        yield Row(f"float32 {name}, GFLOP/s", work / min(times[name]))
    best = work / min(min(times[name]) for name in products)
    plainly = _median(times["PyTorch"])
    arithmetic = tile_gflop(model, TILE)
    yield Row(f"PyTorch float32, {TILE}² tile, GFLOP/s", arithmetic / plainly)
    bound = arithmetic / best / plainly
    yield Row(f"ONNX fp32 over PyTorch, {TILE}²: bound by the best product", bound)
    for name in works:
        if name != "PyTorch":
            each = _median(times[name]) / (2 if name.startswith("two") else 1)
            yield Row(f"ONNX fp32 over PyTorch, {TILE}²: {name} (less)", each / plainly)


def _products(threads: int) -> dict[str, Work]:
    """One product by each library."""
    side = PRODUCT_SIDE
    a = np.random.default_rng(0).standard_normal((side, side), np.float32)
    t = torch.from_numpy(a)
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    info = [helper.make_tensor_value_info(n, kind, [side, side]) for n in ("image", "y")]
    node = helper.make_node("MatMul", ["image", "b"], ["y"])
    weight = onnx.numpy_helper.from_array(a, "b")
    graph = helper.make_graph([node], "product", info[:1], info[1:], [weight])
    sets = [helper.make_opsetid("", 17)]
    data = helper.make_model(graph, opset_imports=sets, ir_version=8).SerializeToString()
    own = session(data, threads)
    found: dict[str, Work] = {
        f"product {side}³ by PyTorch": lambda: t @ t,
        f"product {side}³ by NumPy": lambda: a @ a,
        f"product {side}³ by ONNX Runtime": lambda: own.run(None, {"image": a}),
    }
    other = _openvino(data, threads)
    if other is not None:
        found[f"product {side}³ by OpenVINO"] = lambda: other(a)
    return found


def _openvino(data: bytes, threads: int) -> Callable[[np.ndarray], Any] | None:
    try:
        import openvino
    except ImportError:
        return None
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(data), "CPU", hints)
    return lambda array: compiled([array])


def in_blocks(data: bytes, side: int) -> bytes:
    """A backbone whose attention, for tiles of one side, is written out in blocks of rows."""
    model = onnx.load_from_string(data)
    nodes, users = list(model.graph.node), {}
    makers = {name: n for n in nodes for name in n.output}
    for node in nodes:
        for name in node.input:
            users.setdefault(name, node)
    count = (side // 14) ** 2 + 8  # ends beyond the last row are cut by Slice
    new: list[Any] = []
    gone = set()
    for soft in (n for n in nodes if n.op_type == "Softmax"):
        first, last = makers[soft.input[0]], users[soft.output[0]]
        gone |= {first.name, soft.name, last.name}
    numbers: dict[int, str] = {}

    def number(value: int) -> str:
        if value not in numbers:
            numbers[value] = f"block_{value}"
            array = np.array([value], np.int64)
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, numbers[value]))
        return numbers[value]

    for node in nodes:
        if node.name not in gone:
            new.append(node)
        elif node.op_type == "Softmax":
            first, last = makers[node.input[0]], users[node.output[0]]
            pieces = []
            for begin in range(0, count, BLOCK):
                name = f"{node.name}_{begin}"
                ends = [number(begin), number(begin + BLOCK), number(2)]
                new += [
                    onnx.helper.make_node("Slice", [first.input[0], *ends], [f"{name}_q"]),
                    onnx.helper.make_node("MatMul", [f"{name}_q", first.input[1]], [f"{name}_s"]),
                    onnx.helper.make_node("Softmax", [f"{name}_s"], [f"{name}_p"], axis=-1),
                    onnx.helper.make_node("MatMul", [f"{name}_p", last.input[1]], [f"{name}_o"]),
                ]
                pieces.append(f"{name}_o")
            new.append(onnx.helper.make_node("Concat", pieces, [last.output[0]], axis=2))
    del model.graph.node[:]
    model.graph.node.extend(new)
    return bytes(model.SerializeToString())


def int8_rows() -> Iterator[Row]:
    """The embedded model in int8 each way: time over PyTorch float32, and AP that differs."""
    from dinoscope.engine.parity import ACTIVATIONS, compare, real_tiles
    from dinoscope.models.checkpoint import load_model
    from dinoscope.models.device import set_threads
    from dinoscope.models.export import onnx_model
    from dinoscope.models.quantize import open_onnx, to_int8

    logging.getLogger().setLevel(logging.ERROR)  # advice of the quantiser, at every call
    threads = set_threads(0)
    model = load_model("embedded", device="cpu")
    tiles = real_tiles(model, LARGE)
    pixels = [t.pixels[None] for t in tiles]
    fused = onnx_model(model, ["instance"], ACTIVATIONS, fused=True)
    plain = onnx_model(model, ["instance"], ACTIVATIONS)
    attention = [n.name for n in plain.graph.node if n.op_type == "MatMul"]
    attention = attention[2:]  # the first two resample the position embeddings
    convolutions = [n.name for n in plain.graph.node if n.op_type == "Conv"][2:-1]
    layers = [n.name for n in plain.graph.node if n.op_type == "Gemm"]
    unrounded = ["Gemm", "MatMul"]
    ways: dict[str, bytes] = {
        "float32": plain.SerializeToString(),
        "float32, fused attention": fused.SerializeToString(),
        "linear layers, fused attention (shipped)": to_int8(fused, pixels).SerializeToString(),
        "linear layers": to_int8(plain, pixels).SerializeToString(),
        "linear layers, results rounded too": quantized(plain, pixels, layers),
        "linear layers, ranges found as it runs": quantized(plain, None, layers),
        "linear layers, int8 operators": quantized(plain, pixels, layers, operators=True),
        "linear layers, attention": quantized(plain, pixels, layers + attention, unrounded),
        "linear layers, attention, both signed": quantized(
            plain, pixels, layers + attention, unrounded, signed=True
        ),
        "linear layers, convolutions": quantized(plain, pixels, layers + convolutions, unrounded),
        "linear layers, largest convolution": quantized(
            plain, pixels, [*layers, convolutions[-2]], unrounded
        ),
        "all of these": quantized(plain, pixels, layers + attention + convolutions, unrounded),
    }
    batch = pixels[-1]
    works: dict[str, Work] = {"PyTorch": lambda: model(torch.from_numpy(batch))}
    lost = {}
    for name, data in ways.items():
        run = open_onnx(data, ["instance"], threads)
        lost[name] = compare(model, run, ["instance"], tiles).instance_ap_difference
        works[name] = lambda run=run: run(batch)
    with torch.inference_mode():
        times = in_turns(works, TURNS)
    for name in ways:
        ratio = _median(times[name]) / _median(times["PyTorch"])
        yield Row(f"ONNX int8 over PyTorch fp32, {LARGE}²: {name} (less)", ratio)
        yield Row(f"ONNX int8, {LARGE}²: {name}: instance AP that differs (less)", lost[name])
    run = open_onnx(ways["linear layers, fused attention (shipped)"], ["instance"], threads)
    four = np.concatenate([_quarter(batch, i) for i in range((LARGE // OWN) ** 2)])
    own = {"int8": lambda: run(four), "PyTorch": lambda: model(torch.from_numpy(four))}
    with torch.inference_mode():
        times = in_turns(own, TURNS)
    yield Row(
        f"ONNX int8 over PyTorch fp32, {len(four)} tiles of {OWN}²: shipped (less)",
        _median(times["int8"]) / _median(times["PyTorch"]),
    )


def _quarter(batch: np.ndarray, number: int) -> np.ndarray:
    y, x = divmod(number, LARGE // OWN)
    return batch[:, :, y * OWN : (y + 1) * OWN, x * OWN : (x + 1) * OWN]


def quantized(
    model: Any,
    tiles: Sequence[np.ndarray] | None,
    nodes: Sequence[str],
    unrounded: Sequence[str] = (),
    *,
    signed: bool = False,
    operators: bool = False,
) -> bytes:
    """Some nodes in int8; without `tiles` ranges are found as the graph runs."""
    from onnxruntime import quantization as q

    class Tiles(q.CalibrationDataReader):  # type: ignore[misc]
        """Hands out one tile after the other."""

        def __init__(self) -> None:
            self.rest = iter(tiles or ())

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            """The next tile; ``None`` at the end."""
            tile = next(self.rest, None)
            return None if tile is None else {"image": tile}

    kinds = sorted({n.op_type for n in model.graph.node if n.name in set(nodes)})
    common = {
        "op_types_to_quantize": kinds,
        "nodes_to_quantize": list(nodes),
        "per_channel": True,
        "weight_type": q.QuantType.QInt8,
    }
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "before.onnx"), Path(folder, "after.onnx")
        onnx.save(model, before)
        if tiles is None:
            q.quantize_dynamic(before, after, **common)
        else:
            q.quantize_static(
                before,
                after,
                Tiles(),
                quant_format=q.QuantFormat.QOperator if operators else q.QuantFormat.QDQ,
                activation_type=q.QuantType.QInt8 if signed else q.QuantType.QUInt8,
                extra_options={"OpTypesToExcludeOutputQuantization": list(unrounded)},
                **common,
            )
        return after.read_bytes()
