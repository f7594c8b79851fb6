"""LoRA adapters: added by peft for training, merged without it for inference.

LoRA: Hu et al. (2021), arXiv:2106.09685; rank stabilisation: Kalajdzievski (2023),
arXiv:2312.03732.
The original weights are never written to while an adapter is attached.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dinoscope.errors import InputError, ModelFileError
from dinoscope.models.device import torch
from dinoscope.models.weights import state_digest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dinoscope.models.model import Model

_NAME = "default"  # peft's name for the one adapter of a model
_PLACES = ("backbone", "heads", "both")
_BACKBONE = "backbone.vit."


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter looks like; stored in the card.

    Parameters
    ----------
    rank : int
        Rank r of the two matrices.
    alpha : float
        Numerator of their scale: ``alpha / sqrt(rank)`` rank-stabilised, else ``alpha / rank``.
    blocks : "all" or int or tuple[int, ...]
        Blocks of the backbone: all, the last k, or these (counted from 0).
    on : {"backbone", "heads", "both"}
        Where the layers go. On heads, every convolution and linear layer of decoder and heads.
    targets : tuple[str, ...]
        Layers of a block, by their last name.
    dropout : float
        Dropout before the first matrix, in training only.
    rslora : bool
        Rank-stabilised scale.

    Raises
    ------
    InputError
        A value that cannot be used.
    """

    rank: int = 8
    alpha: float = 8.0
    blocks: str | int | tuple[int, ...] = "all"
    on: str = "backbone"
    targets: tuple[str, ...] = ("qkv", "proj", "fc1", "fc2")
    dropout: float = 0.0
    rslora: bool = True

    def __post_init__(self) -> None:
        if self.on not in _PLACES:
            raise InputError(f"LoRA goes on {self.on!r}", expected=" or ".join(_PLACES))
        if self.rank < 1 or not self.alpha > 0 or not 0 <= self.dropout < 1:
            raise InputError(
                f"LoRA rank, alpha, dropout are {self.rank}, {self.alpha}, {self.dropout}",
                expected="rank at least 1, alpha above 0, dropout from 0 to below 1",
            )

    @property
    def scale(self) -> float:
        """Factor of the product of the two matrices."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary; `from_json` reads it back."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> AdapterConfig:
        """Read what `to_json` wrote.

        Raises
        ------
        ModelFileError
            It cannot be read.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        kept: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known
        }
        try:
            return cls(**kept)
        except (TypeError, InputError) as error:
            raise ModelFileError(f"the card's adapter entry cannot be read ({error})") from error


@dataclass(frozen=True)
class Lora:
    """The adapter of a model: as layers (trainable), or merged into its weights.

    `state` and `merged_digest` are set where it is merged: the adapter's own tensors, and the
    digest of the merged backbone, by which saving sees that nothing has changed since. `trainable`
    names the parameters that were trainable before layers were added.
    """

    config: AdapterConfig
    merged: bool = False
    state: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    merged_digest: str = ""
    trainable: frozenset[str] = frozenset()


def add_lora(model: Model, config: AdapterConfig | None = None, **options: Any) -> AdapterConfig:
    """Add LoRA layers to a model, in place, by peft; the second matrix starts at zero.

    Everything that the adapter covers is frozen except the adapter; the rest keeps its
    ``requires_grad`` (with ``on="backbone"``: the heads stay trainable).

    Parameters
    ----------
    model : Model
        A model without LoRA layers. An adapter merged into it becomes part of the original.
    config : AdapterConfig, optional
        Or its entries as keywords: ``rank, alpha, blocks, on, targets, dropout, rslora``.

    Returns
    -------
    AdapterConfig
        With `blocks` resolved to block numbers.

    Raises
    ------
    InputError
        The model has LoRA layers already, or nothing fits `blocks` and `targets`.
    """
    config = config or AdapterConfig(**options)
    if model.lora is not None and not model.lora.merged:
        raise InputError(
            f"model {model.card.name!r} has LoRA layers already",
            expected="a model without",
            hint="Call remove_lora or merge first.",
        )
    config = dataclasses.replace(config, blocks=resolve_blocks(config.blocks, model))
    names = _target_names(model, config)
    from peft import LoraConfig, inject_adapter_in_model  # seconds to import: only where it is used

    frozen = _prefixes(config)
    trainable = frozenset(name for name, p in model.named_parameters() if p.requires_grad)
    settings = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # annotated int, used as a number
        target_modules=names,
        lora_dropout=config.dropout,
        use_rslora=config.rslora,
        bias="none",
    )
    inject_adapter_in_model(settings, model, adapter_name=_NAME)
    for name, parameter in model.named_parameters():
        if ".lora_" not in name:
            plain = name.replace(".base_layer.", ".")
            parameter.requires_grad_(plain in trainable and not plain.startswith(frozen))
    model.lora = Lora(config, trainable=trainable)
    return config


def resolve_blocks(blocks: str | int | tuple[int, ...] | None, model: Model) -> tuple[int, ...]:
    """Numbers of the blocks meant: ``"all"`` (or ``None``), the last k, or given ones.

    Raises
    ------
    InputError
        No such blocks.
    """
    depth = len(model.backbone.vit.blocks)
    if blocks is None or blocks == "all":
        return tuple(range(depth))
    if isinstance(blocks, int) and blocks >= 1:
        return tuple(range(max(0, depth - blocks), depth))
    if isinstance(blocks, tuple) and blocks and all(b in range(depth) for b in blocks):
        return tuple(sorted(set(blocks)))
    raise InputError(f"LoRA blocks are {blocks!r}", expected=f"all, or 1 to {depth}")


def lora_state(model: Model) -> dict[str, Tensor]:
    """The adapter's tensors, ``<layer>.lora_A.weight`` and ``.lora_B.weight``; empty without."""
    if model.lora is None:
        return {}
    if model.lora.merged:
        return dict(model.lora.state)
    state = {}
    for name, layer in _lora_layers(model):
        state[f"{name}.lora_A.weight"] = layer.lora_A[_NAME].weight.detach()
        state[f"{name}.lora_B.weight"] = layer.lora_B[_NAME].weight.detach()
    return state


def original_state(model: Model) -> dict[str, Tensor]:
    """The model's tensors without its LoRA layers, under the names they have without them."""
    return {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in model.state_dict().items()
        if ".lora_" not in name
    }


def load_lora(model: Model, state: Mapping[str, Tensor], config: AdapterConfig) -> None:
    """Add LoRA layers and fill them, in place, to train them further.

    Raises
    ------
    ModelFileError
        `state` does not fit `model` and `config`.
    """
    pairs = _pairs(model, state, config)
    add_lora(model, config)
    layers = dict(_lora_layers(model))
    if set(layers) != set(pairs):
        remove_lora(model)
        raise _misfit(f"it has {len(pairs)} layers, its card describes {len(layers)}")
    with torch.no_grad():
        for name, (a, b) in pairs.items():
            layers[name].lora_A[_NAME].weight.copy_(a)
            layers[name].lora_B[_NAME].weight.copy_(b)


def merge_lora(model: Model, state: Mapping[str, Tensor], config: AdapterConfig) -> None:
    """Add an adapter's product to the weights, in place and without peft: the fast way to use one.

    Raises
    ------
    ModelFileError
        `state` does not fit `model`.
    """
    pairs = _pairs(model, state, config)
    with torch.no_grad():
        for name, (a, b) in pairs.items():
            weight = model.get_submodule(name).weight
            weight += _delta(a, b, config.scale).to(weight)  # type: ignore[operator, arg-type]
    kept = {name: tensor for name, tensor in state.items() if name.startswith(_BACKBONE)}
    model.lora = Lora(
        dataclasses.replace(config, on="backbone"),
        merged=True,
        state={name: tensor.detach().clone() for name, tensor in kept.items()},
        merged_digest=state_digest(model.backbone.vit.state_dict()),
    )
    if not kept:  # an adapter of heads alone is part of the heads now
        model.lora = None


def merge(model: Model) -> Model:
    """A copy with the adapter merged into its weights; `model` stays as it is."""
    merged = copy.deepcopy(model)
    if merged.lora is not None and not merged.lora.merged:
        config, state = merged.lora.config, lora_state(merged)
        remove_lora(merged)
        merge_lora(merged, state, config)
    return merged


def remove_lora(model: Model) -> None:
    """Take the LoRA layers out, in place; the original weights are what they were, to the bit."""
    for name, layer in list(_lora_layers(model)):
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.base_layer)
    model.__dict__.pop("peft_config", None)
    if model.lora is not None and not model.lora.merged:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in model.lora.trainable)
    model.lora = None


def _lora_layers(model: Model) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            yield name, module


def _prefixes(config: AdapterConfig) -> tuple[str, ...]:
    backbone, heads = ("backbone.",), ("decoder.", "heads.")
    return {"backbone": backbone, "heads": heads, "both": backbone + heads}[config.on]


def _target_names(model: Model, config: AdapterConfig) -> list[str]:
    """Names of the layers that get an adapter."""
    blocks = tuple(f"{_BACKBONE}blocks.{b}." for b in config.blocks)  # type: ignore[union-attr]
    names = []
    for name, module in model.named_modules():
        if not _adaptable(module) or not name.startswith(_prefixes(config)):
            continue
        in_backbone = name.startswith("backbone.")
        if not in_backbone or (
            name.startswith(blocks) and name.rpartition(".")[2] in config.targets
        ):
            names.append(name)
    if not names:
        raise InputError(
            f"LoRA on {config.on!r} with targets {', '.join(config.targets)} fits no layer of "
            f"{model.card.name!r}",
            expected="qkv, proj, fc1, fc2 in the backbone, or a model with heads",
        )
    return names


def _adaptable(module: nn.Module) -> bool:
    if isinstance(module, torch.nn.Conv2d):
        return module.groups == 1
    return isinstance(module, torch.nn.Linear)


def _pairs(
    model: Model, state: Mapping[str, Tensor], config: AdapterConfig
) -> dict[str, tuple[Tensor, Tensor]]:
    """The two matrices of each layer, checked against the model."""
    modules = dict(model.named_modules())
    pairs = {}
    names = {key.removesuffix(".weight").rpartition(".")[0] for key in state}
    for name in sorted(names):
        module, a, b = (
            modules.get(name),
            state.get(f"{name}.lora_A.weight"),
            state.get(f"{name}.lora_B.weight"),
        )
        if module is None or a is None or b is None or not _adaptable(module):
            raise _misfit(f"layer {name!r} is incomplete or not in the model")
        out, *rest = module.weight.shape
        if tuple(a.shape) != (config.rank, *rest) or tuple(b.shape[:2]) != (out, config.rank):
            raise _misfit(f"layer {name!r} has shapes {tuple(a.shape)}, {tuple(b.shape)}")
        pairs[name] = (a, b)
    return pairs


def _misfit(reason: str) -> ModelFileError:
    return ModelFileError(
        f"the adapter does not fit its model ({reason})",
        hint="The file was made with another backbone or other heads: export it again.",
    )


def _delta(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """What an adapter adds to a weight: (out, in), of a convolution (out, in, kh, kw)."""
    if a.ndim == 2:
        return scale * (b.float() @ a.float())
    return scale * torch.einsum("or,rikl->oikl", b[:, :, 0, 0].float(), a.float())
