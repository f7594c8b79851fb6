"""A whole model as one ONNX or OpenVINO file: backbone with merged adapter, decoder and heads.

The graph takes ``image`` (batch, 3, height, width), normalised pixels in about [0, 1], any batch
and any sides that are multiples of the patch, and gives one output for each task, activated.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dinoscope.errors import MissingHeadError, MissingLibraryError, ModelFileError, OutputError
from dinoscope.models.adapter import merge
from dinoscope.models.card import HeadSpec, ModelCard
from dinoscope.models.runtime.graph import DEFAULT_OPSET, Graph, add_backbone, import_onnx
from dinoscope.models.runtime.parts import take_apart

if TYPE_CHECKING:
    from dinoscope.models.model import Model

#: Groups of every GroupNorm in the decoder, and its epsilon (see `dinoscope.models.heads`).
_GROUPS, _GROUP_EPSILON = 8, 1e-5
#: Entries of an exported file's metadata.
CARD_ENTRY, TASKS_ENTRY, FORMAT_ENTRY = "dinoscope.card", "dinoscope.tasks", "dinoscope.format"
FORMAT = "1"


@dataclass(frozen=True)
class Activation:
    """What becomes of the raw channels ``[start, stop)`` of an output.

    `kind` is ``sigmoid``, ``softmax`` (over all channels), ``clip`` (to ± `limit`) or ``none``.
    """

    kind: str
    start: int = 0
    stop: int | None = None
    limit: float = 0.0


def onnx_model(
    model: Model,
    tasks: Sequence[str],
    activations: Mapping[str, Sequence[Activation]],
    *,
    opset: int = DEFAULT_OPSET,
    half: bool = False,
    fused: bool = False,
) -> Any:
    """The ``ModelProto`` of a model's heads for `tasks`.

    Parameters
    ----------
    model : Model
        An adapter is merged into a copy.
    tasks : sequence of str
        Outputs of the graph, by the names of the heads.
    activations : Mapping
        By task; nothing is done to outputs that are not named.
    opset : int
        At least 17.
    half : bool
        Weights and activations in float16; input and outputs stay float32.
    fused : bool
        Attention by ONNX Runtime's own operator: faster, and no other program reads the file.

    Raises
    ------
    MissingHeadError
        No task, or one that the model has no head for.
    InputError
        The opset cannot be written, or the backbone cannot be exported.
    MissingLibraryError
        onnx is not installed.
    """
    if not tasks:
        raise MissingHeadError(
            f"model {model.card.name!r} has no head that could be exported",
            hint="Fine-tune it on a task first, or export another model.",
        )
    model.require_heads(tasks)
    model = merge(model) if model.lora is not None and not model.lora.merged else model
    state = {n: t.detach().float().cpu().numpy() for n, t in model.state_dict().items()}
    graph = Graph(np.float16 if half else np.float32)
    patch_tokens, cls_token = add_backbone(graph, take_apart(model), fused=fused)
    heads = model.card.heads
    joined = ""
    if any(not heads[t].pooled for t in tasks):
        joined = _decoder(graph, state, patch_tokens, model.backbone.patch)
    outputs: list[tuple[str, Sequence[int | str]]] = []
    for task in tasks:
        spec = heads[task]
        if spec.pooled:
            raw = (
                _pooled_detail(graph, state, task, patch_tokens, cls_token, model.backbone.patch)
                if spec.kind == "pooled-detail"
                else _pooled(graph, state, task, patch_tokens, cls_token)
            )
            outputs.append((task, ["batch", spec.channels]))
        else:
            raw = _dense(graph, state, task, spec, joined)
            channels = 1 if spec.kind == "bins" else spec.channels
            outputs.append((task, ["batch", channels, "height", "width"]))
        graph.rename(graph.to_float32(_activated(graph, raw, activations.get(task, ()))), task)
    entries = metadata(model.card, tasks)
    return graph.model(outputs, opset=opset, contrib=fused, metadata=entries)


def metadata(card: ModelCard, tasks: Sequence[str]) -> dict[str, str]:
    """What an exported file says about itself."""
    kept = card.replace(heads={t: card.heads[t] for t in tasks})
    return {
        FORMAT_ENTRY: FORMAT,
        TASKS_ENTRY: ",".join(tasks),
        CARD_ENTRY: json.dumps(kept.to_json(), ensure_ascii=False),
    }


def read_metadata(path: str | Path) -> ModelCard:
    """The card of an exported ONNX file.

    Raises
    ------
    ModelFileError
        It is no ONNX file, or was not exported by dinoscope.
    """
    path = Path(path)
    onnx = import_onnx()
    try:
        found = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf has a family of its own
        raise ModelFileError(
            f"{path.name!r} cannot be read as ONNX ({type(error).__name__})",
            expected="a file written by 'dinoscope export'",
        ) from error
    entries = {p.key: p.value for p in found.metadata_props}
    if entries.get(FORMAT_ENTRY) != FORMAT or CARD_ENTRY not in entries:
        raise ModelFileError(
            f"{path.name!r} is an ONNX file of another program"
            if CARD_ENTRY not in entries
            else f"{path.name!r} has export format {entries.get(FORMAT_ENTRY)!r}",
            expected=f"a file written by 'dinoscope export', format {FORMAT}",
            hint="Other networks cannot be used as a dinoscope model.",
        )
    return ModelCard.from_json(json.loads(entries[CARD_ENTRY]))


# -- decoder and heads ------------------------------------------------------------------------

State = Mapping[str, np.ndarray]


def _decoder(graph: Graph, state: State, patch_tokens: str, patch: int) -> str:
    """`DenseDecoder` node by node, of tokens of `patch` pixels."""
    folded, state = _folded(graph, state, "decoder.detail2.0.0.weight")

    def conv(name: str, x: str, stride: int = 1) -> str:
        return _conv_block(graph, state, f"decoder.{name}", x, stride)

    d2 = conv("detail2.1", conv("detail2.0", folded))
    d4 = conv("detail4.1", conv("detail4.0", d2, 2))
    d8 = conv("detail8.1", conv("detail8.0", d4, 2))
    tokens = _conv(graph, state, "decoder.tokens.0", patch_tokens)
    tokens = graph.add("Relu", _group_norm(graph, state, "decoder.tokens.1", tokens))

    def join(name: str, detail: str, maps: str) -> str:
        both = graph.add("Concat", detail, _resize_like(graph, maps, detail), axis=1)
        return conv(name, both)

    if "decoder.fine.0.weight" in state:
        unfolded = _conv(graph, state, "decoder.fine.0", patch_tokens)
        unfolded = graph.add("DepthToSpace", unfolded, blocksize=patch // 2, mode="CRD")
        d2 = graph.add("Add", d2, _conv(graph, state, "decoder.fine.2", unfolded))
    joined = _conv(graph, state, "decoder.join8.1", join("join8.0", d8, tokens))
    joined = _conv(graph, state, "decoder.join4.1", join("join4.0", d4, joined))
    return join("join2", d2, joined)


def _folded(graph: Graph, state: State, first: str) -> tuple[str, State]:
    """Pixels with each 2 x 2 block as channels, and weights whose `first` takes them."""
    scaled = graph.add("Mul", graph.to_own("image"), graph.number(2))
    folded = graph.add("SpaceToDepth", graph.add("Sub", scaled, graph.number(1)), blocksize=2)
    # SpaceToDepth puts the place within a block before the channel, PyTorch behind it.
    out, _, high, wide = state[first].shape
    turned = state[first].reshape(out, 3, 4, high, wide).transpose(0, 2, 1, 3, 4)
    return folded, {**state, first: turned.reshape(out, 12, high, wide)}


def _conv_block(graph: Graph, state: State, name: str, x: str, stride: int = 1) -> str:
    x = _conv(graph, state, f"{name}.0", x, stride)
    return str(graph.add("Relu", _group_norm(graph, state, f"{name}.1", x)))


def _conv(graph: Graph, state: State, name: str, x: str, stride: int = 1) -> str:
    weight = state[f"{name}.weight"]
    inputs = [x, graph.weight(f"{name}.weight", weight)]
    if f"{name}.bias" in state:
        inputs.append(graph.weight(f"{name}.bias", state[f"{name}.bias"]))
    side = weight.shape[-1]
    pads = [side // 2] * 4
    return str(
        graph.add("Conv", *inputs, kernel_shape=[side, side], strides=[stride] * 2, pads=pads)
    )


def _group_norm(graph: Graph, state: State, name: str, x: str) -> str:
    """Instance norm over groups of channels: GroupNormalization is not in older opsets."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    batch = graph.size(x, 0)
    apart = graph.reshape(x, batch, _GROUPS, -1)
    ones = graph.exact(np.ones(_GROUPS, graph.dtype))
    zeros = graph.exact(np.zeros(_GROUPS, graph.dtype))
    normed = graph.add("InstanceNormalization", apart, ones, zeros, epsilon=_GROUP_EPSILON)
    normed = graph.add("Reshape", normed, graph.add("Shape", x))
    scaled = graph.add("Mul", normed, graph.weight(f"{name}.weight", weight[:, None, None]))
    return str(graph.add("Add", scaled, graph.weight(f"{name}.bias", bias[:, None, None])))


def _resize_like(graph: Graph, maps: str, target: str) -> str:
    sizes = graph.add("Concat", graph.size(maps, 0, 1), graph.size(target, 2, 3), axis=0)
    return _resize(graph, maps, sizes=sizes)


def _resize(graph: Graph, maps: str, *, sizes: str = "", scales: str = "") -> str:
    inputs = [maps, "", scales, sizes] if sizes else [maps, "", scales]
    return str(
        graph.add("Resize", *inputs, mode="linear", coordinate_transformation_mode="half_pixel")
    )


def _dense(graph: Graph, state: State, task: str, spec: HeadSpec, joined: str) -> str:
    name = f"heads.{task}"
    mixed = graph.add("Relu", _conv(graph, state, f"{name}.mix", joined))
    out = _conv(graph, state, f"{name}.out", mixed)
    if spec.kind == "dense":
        return str(graph.add("DepthToSpace", out, blocksize=2, mode="CRD"))
    weights = graph.add("Add", graph.add("Relu", out), graph.number(1e-2))
    centres = np.linspace(spec.low, spec.high, spec.channels, dtype=np.float32)
    table = graph.weight(f"{name}.centres", centres[None, :, None, None])
    total = graph.add("ReduceSum", weights, graph.ints(1), keepdims=1)
    value = graph.add("ReduceSum", graph.add("Mul", weights, table), graph.ints(1), keepdims=1)
    scales = graph.exact(np.array([1, 1, 2, 2], np.float32))
    return _resize(graph, str(graph.add("Div", value, total)), scales=scales)


def _pooled(graph: Graph, state: State, task: str, patch_tokens: str, cls_token: str) -> str:
    name = f"heads.{task}"
    mean = graph.add("Flatten", graph.add("GlobalAveragePool", patch_tokens), axis=1)
    both = graph.add("Concat", mean, cls_token, axis=1)
    weight, bias = state[f"{name}.norm.weight"], state[f"{name}.norm.bias"]
    normed = graph.layer_norm(f"{name}.norm", both, weight, bias, epsilon=1e-5)
    return graph.linear(
        f"{name}.out", normed, state[f"{name}.out.weight"], state[f"{name}.out.bias"]
    )


def _pooled_detail(
    graph: Graph, state: State, task: str, patch_tokens: str, cls_token: str, side: int
) -> str:
    """`DetailPooledHead` on whole tiles, whose sides are multiples of the patch."""
    name = f"heads.{task}"

    def mean(maps: str) -> str:
        return str(graph.add("Flatten", graph.add("GlobalAveragePool", maps), axis=1))

    def normed(layer: str, x: str) -> str:
        weight, bias = state[f"{name}.{layer}.weight"], state[f"{name}.{layer}.bias"]
        return graph.layer_norm(f"{name}.{layer}", x, weight, bias, epsilon=1e-5)

    maps, turned = _folded(graph, state, f"{name}.detail.0.0.weight")
    for layer in range(8):
        stride = 2 if layer in (2, 4, 6) else 1
        maps = _conv_block(graph, turned, f"{name}.detail.{layer}", maps, stride)
    maps = _resize_like(graph, maps, patch_tokens)
    width = state[f"{name}.gated_norm.weight"].shape[0]
    ends = (graph.ints(-width), graph.ints(2**62), graph.ints(1))
    last = str(graph.add("Slice", patch_tokens, *ends))
    seen = graph.add("Concat", maps, last, axis=1)
    gate = str(graph.add("Sigmoid", _conv(graph, state, f"{name}.gate", seen)))
    total = graph.add("Max", mean(gate), graph.number(1e-4))

    def gated(what: str) -> str:
        return str(graph.add("Div", mean(str(graph.add("Mul", what, gate))), total))

    image = graph.to_own("image")

    def by_patch(pixels: str) -> str:
        return str(graph.add("AveragePool", pixels, kernel_shape=[side] * 2, strides=[side] * 2))

    bright = gated(by_patch(image))
    square = gated(by_patch(str(graph.add("Mul", image, image))))
    variance = graph.add("Sub", square, graph.add("Mul", bright, bright))
    least = graph.add("Max", variance, graph.number(0))
    spread = graph.add("Sqrt", graph.add("Add", least, graph.number(1e-4)))
    four = graph.number(4)
    tokens = graph.add("Concat", mean(patch_tokens), cls_token, axis=1)
    joined = graph.add(
        "Concat",
        normed("detail_norm", gated(maps)),
        graph.add("Mul", bright, four),
        graph.add("Mul", spread, four),
        normed("gated_norm", gated(last)),
        normed("norm", tokens),
        axis=1,
    )
    return graph.linear(
        f"{name}.out", joined, state[f"{name}.out.weight"], state[f"{name}.out.bias"]
    )


def _activated(graph: Graph, raw: str, activations: Sequence[Activation]) -> str:
    if not activations:
        return raw
    parts = []
    for step in activations:
        part = raw
        if step.start or step.stop is not None:
            stop = graph.ints(step.stop if step.stop is not None else 2**62)
            part = graph.add("Slice", raw, graph.ints(step.start), stop, graph.ints(1))
        if step.kind == "sigmoid":
            part = graph.add("Sigmoid", part)
        elif step.kind == "softmax":
            part = graph.add("Softmax", part, axis=1)
        elif step.kind == "clip":
            part = graph.add("Clip", part, graph.number(-step.limit), graph.number(step.limit))
        parts.append(part)
    return parts[0] if len(parts) == 1 else str(graph.add("Concat", *parts, axis=1))


# -- files -----------------------------------------------------------------------------------


def write_onnx(found: Any, path: str | Path) -> Path:
    """Write a ``ModelProto``; an older file is replaced only by a complete new one.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    import_onnx().checker.check_model(found)
    return write_bytes(found.SerializeToString(), Path(path))


def write_bytes(data: bytes, path: Path) -> Path:
    """Write a file as a whole.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(data)
        os.chmod(file.name, 0o644)
        os.replace(file.name, path)
    except OSError as error:
        raise OutputError(
            f"{str(path)!r} cannot be written ({error.strerror or error})",
            hint="Choose an existing folder that you may write to, with enough room.",
        ) from error
    return path


def write_openvino(found: Any, path: str | Path, *, half: bool = False) -> Path:
    """Write OpenVINO's pair of files, ``NAME.xml`` and ``NAME.bin``.

    Raises
    ------
    MissingLibraryError
        openvino is not installed.
    OutputError
        They cannot be written.
    """
    if importlib.util.find_spec("openvino") is None:
        raise MissingLibraryError("openvino", "all", "exporting to OpenVINO")
    openvino: Any = importlib.import_module("openvino")
    path = Path(path)
    converted = openvino.Core().read_model(found.SerializeToString())
    for entry in found.metadata_props:
        converted.set_rt_info(entry.value, entry.key.split("."))
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            openvino.save_model(converted, str(Path(folder) / path.name), compress_to_fp16=half)
            for suffix in (".bin", ".xml"):
                os.replace(Path(folder) / f"{path.stem}{suffix}", path.with_suffix(suffix))
    except (OSError, RuntimeError) as error:
        raise OutputError(
            f"{str(path)!r} cannot be written ({error})",
            hint="Choose an existing folder that you may write to, with enough room.",
        ) from error
    return path
