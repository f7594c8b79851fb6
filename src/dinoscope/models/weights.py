"""Backbone weight files: Facebook Research's ``.pth`` layout and timm's safetensors; data only."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoscope.errors import ModelFileError
from dinoscope.models.backbone import Backbone
from dinoscope.models.device import torch
from dinoscope.models.registry import BACKBONES, BackboneSpec

if TYPE_CHECKING:
    from torch import Tensor

BACKBONE_SUFFIXES = (".pth", ".pt", ".safetensors")


def read_backbone_file(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a backbone file, as they are named in it.

    Parameters
    ----------
    path : path
        ``dinov2_vits14_pretrain.pth`` and its siblings, or timm's ``model.safetensors``.

    Raises
    ------
    ModelFileError
        Missing, truncated, or holding anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"there is no backbone file {str(path)!r}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            values: Any = load_file(str(path))
        else:
            values = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelFileError(
            f"backbone file {path.name!r} is damaged or holds more than tensors: it was not opened",
            expected="an official DINOv2 checkpoint or timm's safetensors",
        ) from error
    except Exception as error:  # zip, pickle, safetensors and OS errors: the reader's, not ours
        raise ModelFileError(
            f"backbone file {path.name!r} is truncated or not a weight file "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__})",
            expected="an official DINOv2 checkpoint or timm's safetensors",
            hint="Get the file again.",
        ) from error
    if not isinstance(values, dict) or not all(torch.is_tensor(v) for v in values.values()):
        raise ModelFileError(
            f"backbone file {path.name!r} is not a table of tensors",
            expected="an official DINOv2 checkpoint or timm's safetensors",
        )
    return {str(name): tensor for name, tensor in values.items()}


def identify(state: Mapping[str, Tensor], name: str = "the file") -> BackboneSpec:
    """Which backbone these tensors belong to, by width, depth and registers.

    Raises
    ------
    ModelFileError
        None of the table.
    """
    patch = state.get("patch_embed.proj.weight")
    if patch is None or patch.ndim != 4:
        raise ModelFileError(
            f"{name!r} is no DINOv2 backbone: it has no patch embedding",
            expected="an official DINOv2 checkpoint or timm's safetensors",
        )
    width, size = int(patch.shape[0]), int(patch.shape[-1])
    blocks = {key.split(".")[1] for key in state if key.startswith("blocks.")}
    register = state.get("register_tokens", state.get("reg_token"))
    registers = 0 if register is None else int(register.shape[1])
    for spec in BACKBONES.values():
        facts = (spec.embed_dim, spec.patch, spec.depth, spec.registers)
        if facts == (width, size, len(blocks), registers):
            return spec
    raise ModelFileError(
        f"{name!r} is a vision transformer of width {width}, patch {size}, {len(blocks)} blocks "
        f"and {registers} registers",
        expected="a backbone that `dinoscope models` lists",
    )


def fill_backbone(backbone: Backbone, state: Mapping[str, Tensor], name: str = "the file") -> None:
    """Load tensors of either layout into a backbone, in place, as float32.

    Raises
    ------
    ModelFileError
        A tensor is missing, left over, or has another shape.
    """
    from timm.models.vision_transformer import checkpoint_filter_fn

    try:
        # A copy: the filter takes entries out of the dictionary that it is given.
        vit: Any = backbone.vit  # which has what the filter looks at
        converted = checkpoint_filter_fn(dict(state), vit)
        backbone.vit.load_state_dict(converted, strict=True)
    except (RuntimeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelFileError(
            f"{name!r} does not fit backbone {backbone.spec.name!r} ({reason})",
            hint="Choose the file of that backbone.",
        ) from error


def weights_stamp(module: torch.nn.Module) -> tuple[Any, ...]:
    """What changes whenever a weight of the module is written to; no value is looked at."""
    return tuple(
        (name, p.data_ptr(), 0 if p.is_inference() else p._version, p.dtype)
        for name, p in module.named_parameters()
    )


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 values: one and the same for every file layout.

    Examples
    --------
    >>> from dinoscope.models.device import torch
    >>> state_digest({"a": torch.zeros(2)}) == state_digest({"a": torch.zeros(2).half()})
    True
    """
    hasher = hashlib.sha256()
    for name in sorted(state):
        array = state[name].detach().to("cpu", torch.float32).contiguous().numpy()
        hasher.update(f"{name}|{array.shape}\n".encode())
        hasher.update(array.data)
    return hasher.hexdigest()
