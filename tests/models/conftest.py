from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from dinoscope.models.registry import BACKBONES, BackboneSpec

#: Names under which small stand-ins of the real architectures are registered, and their widths,
#: which tell them apart (the giant's MLP needs a multiple of 96).
SHRUNK = {
    "dinov2_vits14": 64,
    "dinov2_vits14_reg": 128,
    "dinov2_vitg14": 96,
    "dinov2_vitg14_reg": 192,
}


@pytest.fixture
def shrunk(monkeypatch: pytest.MonkeyPatch) -> dict[str, BackboneSpec]:
    """Hub backbones of DINOv2's own architectures (the giant's MLP too), three blocks deep."""
    specs = {}
    for name, width in SHRUNK.items():
        specs[name] = replace(BACKBONES[name], embed_dim=width, depth=3, num_heads=2)
        monkeypatch.setitem(BACKBONES, name, specs[name])  # type: ignore[arg-type]
    return specs


@pytest.fixture
def official_state() -> Callable[[BackboneSpec, int], dict[str, torch.Tensor]]:
    """Random tensors in the layout of the files that Facebook Research publishes."""

    def make(spec: BackboneSpec, seed: int = 0) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)

        def random(*shape: int, scale: float = 0.05) -> torch.Tensor:
            return torch.randn(*shape, generator=generator) * scale

        d, grid = spec.embed_dim, (spec.image_size // spec.patch) ** 2
        state = {
            "cls_token": random(1, 1, d),
            "pos_embed": random(1, 1 + grid, d),
            "mask_token": random(1, d),
            "patch_embed.proj.weight": random(d, 3, spec.patch, spec.patch),
            "patch_embed.proj.bias": random(d),
            "norm.weight": 1 + random(d),
            "norm.bias": random(d),
        }
        if spec.registers:
            state["register_tokens"] = random(1, spec.registers, d)
        giant = "giant" in spec.timm_id
        hidden = (4 * d * 2 // 3 + 7) // 8 * 8 if giant else 4 * d
        first, second = ("w12", "w3") if giant else ("fc1", "fc2")
        for block in range(spec.depth):
            shapes = {
                "norm1.weight": (d,),
                "norm1.bias": (d,),
                "attn.qkv.weight": (3 * d, d),
                "attn.qkv.bias": (3 * d,),
                "attn.proj.weight": (d, d),
                "attn.proj.bias": (d,),
                "ls1.gamma": (d,),
                "norm2.weight": (d,),
                "norm2.bias": (d,),
                f"mlp.{first}.weight": ((2 if giant else 1) * hidden, d),
                f"mlp.{first}.bias": ((2 if giant else 1) * hidden,),
                f"mlp.{second}.weight": (d, hidden),
                f"mlp.{second}.bias": (d,),
                "ls2.gamma": (d,),
            }
            for name, shape in shapes.items():
                scale = 1.0 if "gamma" in name else 0.1
                state[f"blocks.{block}.{name}"] = random(*shape, scale=scale)
        return state

    return make
