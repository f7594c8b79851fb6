"""The backbone as an ONNX graph, written node by node: any batch, any multiple of the patch.

Tracing would bake in one tile size (the resampling of position embeddings has no ONNX operator) and
takes seconds. Written out, a new adapter is a new graph in a fraction of one, from any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dinoscope.errors import InputError, MissingLibraryError
from dinoscope.models.runtime.parts import Parts
from dinoscope.models.vit import EPSILON

#: Opsets that the graphs are valid in: LayerNormalization came with 17.
LEAST_OPSET = 17
DEFAULT_OPSET = 17


def import_onnx() -> Any:
    """The module onnx.

    Raises
    ------
    MissingLibraryError
        It is not installed.
    """
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise MissingLibraryError("onnx", "export", "writing ONNX files") from error
    return onnx


def check_opset(opset: int) -> int:
    """`opset`, where the graphs can be written in it.

    Raises
    ------
    InputError
        It is too old or newer than the installed onnx.
    """
    newest = int(import_onnx().defs.onnx_opset_version())
    if not LEAST_OPSET <= opset <= newest:
        raise InputError(
            f"opset is {opset}",
            expected=f"{LEAST_OPSET} to {newest}",
            hint=f"Layer normalisation needs {LEAST_OPSET}; onnx as installed knows {newest}.",
        )
    return opset


class Graph:
    """Nodes and weights of an ONNX graph as they come.

    Parameters
    ----------
    dtype : numpy dtype
        Of weights and activations: float32 or float16. Inputs and outputs are float32 always.
    """

    def __init__(self, dtype: Any = np.float32) -> None:
        self.onnx = import_onnx()
        self.dtype = np.dtype(dtype)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._known: dict[tuple[Any, ...], str] = {}

    def add(
        self, op: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any
    ) -> Any:
        """Add a node; the name of its output, or a tuple of names."""
        names = tuple(f"{op}_{len(self.nodes)}_{i}" for i in range(outputs))
        self.nodes.append(
            self.onnx.helper.make_node(
                op, inputs, names, name=f"{op}_{len(self.nodes)}", domain=domain, **attributes
            )
        )
        return names[0] if outputs == 1 else names

    def rename(self, name: str, output: str) -> None:
        """Give a value the name of an output of the graph."""
        self.nodes.append(self.onnx.helper.make_node("Identity", [name], [output], name=output))

    def weight(self, name: str, array: np.ndarray) -> str:
        """A named constant in the graph's precision."""
        return self._store(name, np.ascontiguousarray(array, self.dtype))

    def exact(self, array: np.ndarray) -> str:
        """A small constant in its own dtype; the same one is stored once."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = self._store(f"constant_{len(self.weights)}", array)
        return self._known[key]

    def ints(self, *values: int) -> str:
        """A vector of integers."""
        return self.exact(np.array(values, np.int64))

    def number(self, value: float, dtype: Any = None) -> str:
        """A scalar in the graph's precision, or in `dtype`."""
        return self.exact(np.array(value, dtype or self.dtype))

    def _store(self, name: str, array: np.ndarray) -> str:
        self.weights.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def cast(self, value: str, dtype: Any) -> str:
        """Cast to a NumPy dtype."""
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return str(self.add("Cast", value, to=kind))

    def to_own(self, value: str) -> str:
        """A float32 value in the graph's precision."""
        return value if self.dtype == np.float32 else self.cast(value, self.dtype)

    def to_float32(self, value: str) -> str:
        """A value of the graph's precision in float32."""
        return value if self.dtype == np.float32 else self.cast(value, np.float32)

    def size(self, value: str, *axes: int) -> str:
        """Lengths along some axes, as a vector."""
        return str(self.add("Gather", self.add("Shape", value), self.ints(*axes)))

    def reshape(self, value: str, *sizes: int | str) -> str:
        """Reshape to numbers and vectors of lengths."""
        parts = [s if isinstance(s, str) else self.ints(s) for s in sizes]
        return str(self.add("Reshape", value, self.add("Concat", *parts, axis=0)))

    def linear(self, name: str, x: str, weight: np.ndarray, bias: np.ndarray) -> str:
        """``x @ weight.T + bias`` for `x` (rows, in)."""
        w, b = self.weight(f"{name}.weight", weight), self.weight(f"{name}.bias", bias)
        return str(self.add("Gemm", x, w, b, transB=1))

    def layer_norm(
        self, name: str, x: str, weight: np.ndarray, bias: np.ndarray, epsilon: float = EPSILON
    ) -> str:
        """LayerNorm over the last axis; constants of one name are stored once."""
        key = ("norm", name)
        if key not in self._known:
            self.weight(f"{name}.weight", weight)
            self.weight(f"{name}.bias", bias)
            self._known[key] = name
        scale, shift = f"{name}.weight", f"{name}.bias"
        return str(self.add("LayerNormalization", x, scale, shift, axis=-1, epsilon=epsilon))

    def model(
        self,
        outputs: Sequence[tuple[str, Sequence[int | str]]],
        *,
        opset: int = DEFAULT_OPSET,
        contrib: bool = False,
        metadata: dict[str, str] | None = None,
    ) -> Any:
        """The finished ``ModelProto`` with input ``image`` (batch, 3, height, width)."""
        helper, kind = self.onnx.helper, self.onnx.TensorProto.FLOAT
        image = helper.make_tensor_value_info("image", kind, ["batch", 3, "height", "width"])
        ends = [helper.make_tensor_value_info(n, kind, list(shape)) for n, shape in outputs]
        graph = helper.make_graph(self.nodes, "dinoscope", [image], ends, self.weights)
        sets = [helper.make_opsetid("", check_opset(opset))]
        if contrib:
            sets.append(helper.make_opsetid("com.microsoft", 1))
        # The oldest file format that may hold the opset, so that older readers open it too.
        version = helper.find_min_ir_version_for(sets, ignore_unknown=True)
        model = helper.make_model(
            graph, opset_imports=sets, ir_version=max(8, version), producer_name="dinoscope"
        )
        helper.set_model_props(model, metadata or {})
        return model


def add_backbone(graph: Graph, parts: Parts, *, fused: bool = False) -> tuple[str, str]:
    """Add the backbone; names of ``patch_tokens`` (B, L·D, h, w) and ``cls_token`` (B, D).

    Parameters
    ----------
    graph : Graph
        Its input is called ``image``.
    parts : Parts
        The backbone.
    fused : bool
        Write attention as ONNX Runtime's own operator, which keeps no whole score matrix.
    """
    t = parts.tensors
    pixels = np.array(parts.mean, np.float32).reshape(1, 3, 1, 1), np.array(parts.std, np.float32)
    x = graph.add("Sub", "image", graph.exact(pixels[0]))
    x = graph.to_own(graph.add("Div", x, graph.exact(pixels[1].reshape(1, 3, 1, 1))))
    p = parts.patch
    patches = graph.add(
        "Conv",
        x,
        graph.weight("patch.weight", t["patch.weight"].reshape(parts.dim, 3, p, p)),
        graph.weight("patch.bias", t["patch.bias"]),
        strides=[p, p],
        kernel_shape=[p, p],
    )
    batch, grid = graph.size(patches, 0), graph.size(patches, 2, 3)
    flat = graph.add("Transpose", graph.reshape(patches, batch, parts.dim, -1), perm=[0, 2, 1])
    flat = graph.add("Add", flat, _positions(graph, parts, grid))
    prefix = graph.weight("prefix", t["prefix"][None])
    shape = graph.add("Concat", batch, graph.ints(parts.prefix, parts.dim), axis=0)
    tokens = graph.add("Concat", graph.add("Expand", prefix, shape), flat, axis=1)
    count = graph.size(tokens, 1)
    tokens = graph.reshape(tokens, -1, parts.dim)
    chosen = []
    for i in range(parts.depth):
        tokens = _block(graph, parts, i, tokens, batch, count, fused)
        if i in parts.layers:
            normed = graph.layer_norm("norm", tokens, t["norm.weight"], t["norm.bias"])
            chosen.append(graph.reshape(normed, batch, count, parts.dim))
    first, last = graph.ints(parts.prefix), graph.ints(2**62)
    maps = []
    for layer in chosen:
        rest = graph.add("Slice", layer, first, last, graph.ints(1))
        turned = graph.add("Transpose", rest, perm=[0, 2, 1])
        maps.append(graph.reshape(turned, batch, parts.dim, grid))
    cls_token = graph.add("Gather", chosen[-1], graph.exact(np.array(0, np.int64)), axis=1)
    return str(graph.add("Concat", *maps, axis=1)), str(cls_token)


def _positions(graph: Graph, parts: Parts, grid: str) -> str:
    """Position embeddings resampled to the grid, ``(1, h·w, D)``; see `resampling_matrix`."""
    side = parts.tensors["positions"].shape[0]
    rows = _resampling(graph, side, graph.add("Gather", grid, graph.ints(0)))
    columns = _resampling(graph, side, graph.add("Gather", grid, graph.ints(1)))
    table = graph.exact(parts.tensors["positions"].reshape(side, side * parts.dim))
    tall = graph.reshape(graph.add("MatMul", rows, table), -1, side, parts.dim)
    both = graph.add("MatMul", columns, tall)
    return graph.to_own(graph.reshape(both, 1, -1, parts.dim))


def _resampling(graph: Graph, old: int, new: str) -> str:
    """`resampling_matrix` for a length that is known when the graph runs."""

    def number(value: float) -> str:
        return graph.number(value, np.float32)

    length = graph.cast(graph.add("Squeeze", new, graph.ints(0)), np.float32)
    scale = graph.add("Div", number(old), length)
    width = graph.add("Max", scale, number(1))
    steps = graph.add("Range", number(0), length, number(1))
    centres = graph.add("Mul", graph.add("Add", steps, number(0.5)), scale)
    places = graph.exact((np.arange(old, dtype=np.float32) + 0.5)[None])
    apart = graph.add("Sub", places, graph.add("Unsqueeze", centres, graph.ints(1)))
    x = graph.add("Div", graph.add("Abs", apart), width)

    def polynomial(*factors: float) -> str:
        total = number(factors[0])
        for factor in factors[1:]:
            total = graph.add("Add", graph.add("Mul", total, x), number(factor))
        return total

    near, far = polynomial(1.5, -2.5, 0, 1), polynomial(-0.5, 2.5, -4, 2)
    outer = graph.add("Where", graph.add("Less", x, number(2)), far, number(0))
    weights = graph.add("Where", graph.add("Less", x, number(1)), near, outer)
    total = graph.add("ReduceSum", weights, graph.ints(1), keepdims=1)
    return str(graph.add("Div", weights, total))


def _block(
    graph: Graph, parts: Parts, i: int, tokens: str, batch: str, count: str, fused: bool
) -> str:
    t = parts.tensors
    heads, dim = parts.heads, parts.dim

    def linear(name: str, x: str) -> str:
        return graph.linear(f"{i}.{name}", x, t[f"{i}.{name}.weight"], t[f"{i}.{name}.bias"])

    def norm(name: str, x: str) -> str:
        name = f"{i}.{name}"
        return graph.layer_norm(name, x, t[f"{name}.weight"], t[f"{name}.bias"])

    qkv = linear("qkv", norm("norm1", tokens))
    if fused:
        joined = graph.reshape(qkv, batch, count, 3 * dim)
        thirds = graph.add("Split", joined, graph.ints(dim, dim, dim), outputs=3, axis=2)
        mixed = graph.add(
            "MultiHeadAttention", *thirds, domain="com.microsoft", num_heads=heads, scale=1.0
        )
    else:
        apart = graph.reshape(qkv, batch, count, 3, heads, dim // heads)
        q, k, v = (
            graph.add("Gather", apart, graph.exact(np.array(part, np.int64)), axis=2)
            for part in range(3)
        )
        q = graph.add("Transpose", q, perm=[0, 2, 1, 3])
        k = graph.add("Transpose", k, perm=[0, 2, 3, 1])
        v = graph.add("Transpose", v, perm=[0, 2, 1, 3])
        weights = graph.add("Softmax", graph.add("MatMul", q, k), axis=-1)
        mixed = graph.add("Transpose", graph.add("MatMul", weights, v), perm=[0, 2, 1, 3])
    tokens = graph.add("Add", tokens, linear("proj", graph.reshape(mixed, -1, dim)))
    inner = linear("fc1", norm("norm2", tokens))
    return str(graph.add("Add", tokens, linear("fc2", _activation(graph, parts, inner))))


def _activation(graph: Graph, parts: Parts, inner: str) -> str:
    if parts.gated:
        half = parts.tensors["0.fc2.weight"].shape[1]
        gate, value = graph.add("Split", inner, graph.ints(half, half), outputs=2, axis=-1)
        smooth = graph.add("Mul", gate, graph.add("Sigmoid", gate))
        return str(graph.add("Mul", smooth, value))
    erf = graph.add("Erf", graph.add("Div", inner, graph.number(2**0.5)))
    curve = graph.add("Add", erf, graph.number(1))
    return str(graph.add("Mul", graph.add("Mul", inner, curve), graph.number(0.5)))


def backbone_model(parts: Parts, *, fused: bool = False, opset: int = DEFAULT_OPSET) -> bytes:
    """The backbone alone as a serialised ONNX model; outputs ``patch_tokens``, ``cls_token``."""
    graph = Graph()
    patch_tokens, cls_token = add_backbone(graph, parts, fused=fused)
    graph.rename(patch_tokens, "patch_tokens")
    graph.rename(cls_token, "cls_token")
    channels = parts.dim * len(parts.layers)
    outputs: list[tuple[str, Sequence[int | str]]] = [
        ("patch_tokens", ["batch", channels, "rows", "columns"]),
        ("cls_token", ["batch", parts.dim]),
    ]
    return bytes(graph.model(outputs, opset=opset, contrib=fused).SerializeToString())
