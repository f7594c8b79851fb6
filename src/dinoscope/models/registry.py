"""The table of backbones: facts in one place, no branches elsewhere. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dinoscope.errors import InputError


@dataclass(frozen=True)
class BackboneSpec:
    """Everything that has to be known about one backbone.

    Parameters
    ----------
    name : str
        The name that users type and that cards store.
    timm_id : str
        Architecture in timm; the sizes below are passed to it, so one constructor serves all.
    embed_dim, depth, num_heads, registers : int
        Width of the tokens, number of blocks, attention heads, register tokens.
    params_m : float
        Parameters in millions.
    image_size : int
        Side in pixels of the grid that the position embedding was made for.
    patch : int
        Side of a patch in pixels.
    hub_repo, official_file : str or None
        Repository of timm's safetensors, and name of the file as Facebook Research publishes it;
        ``None`` for backbones that are not downloaded.
    source : str
        ``hub`` (downloaded once), ``packaged`` (ships with dinoscope) or ``random`` (for tests).
    """

    name: str
    timm_id: str
    embed_dim: int
    depth: int
    num_heads: int
    registers: int
    params_m: float
    image_size: int = 518
    patch: int = 14
    hub_repo: str | None = None
    official_file: str | None = None
    source: str = "hub"
    licence: str = "Apache-2.0"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    #: Name of the weights within `hub_repo`.
    hub_file: str = "model.safetensors"

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patch tokens: the class token and the registers."""
        return 1 + self.registers

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks whose tokens the heads read: the ends of the thirds, ``(3, 7, 11)`` of 12."""
        return layer_indices(self.depth)

    def timm_kwargs(self) -> Mapping[str, Any]:
        """Arguments of ``timm.create_model(spec.timm_id, **spec.timm_kwargs())``."""
        return {
            "pretrained": False,
            "num_classes": 0,
            "img_size": self.image_size,
            "dynamic_img_size": True,
            "embed_dim": self.embed_dim,
            "depth": self.depth,
            "num_heads": self.num_heads,
        }


def layer_indices(depth: int) -> tuple[int, ...]:
    """Ends of the three thirds of `depth` blocks, counted from 0.

    Examples
    --------
    >>> layer_indices(12), layer_indices(24), layer_indices(4)
    ((3, 7, 11), (7, 15, 23), (0, 2, 3))
    """
    return tuple(sorted({max(0, round(depth * third / 3) - 1) for third in (1, 2, 3)}))


def _dinov2(
    letter: str, size: str, *, dim: int, depth: int, heads: int, params_m: float
) -> list[BackboneSpec]:
    """The plain and the register variant of one DINOv2 size."""
    specs = []
    for registers, suffix, infix in ((0, "", ""), (4, "_reg", "_reg4")):
        timm_id = f"vit_{size}_patch14{infix}_dinov2"
        specs.append(
            BackboneSpec(
                name=f"dinov2_vit{letter}14{suffix}",
                timm_id=timm_id,
                embed_dim=dim,
                depth=depth,
                num_heads=heads,
                registers=registers,
                params_m=params_m,
                hub_repo=f"timm/{timm_id}.lvd142m",
                official_file=f"dinov2_vit{letter}14{infix}_pretrain.pth",
            )
        )
    return specs


BACKBONES: Mapping[str, BackboneSpec] = {
    spec.name: spec
    for spec in (
        BackboneSpec(
            name="embedded",
            timm_id="vit_small_patch14_reg4_dinov2",
            embed_dim=192,
            depth=12,
            num_heads=3,
            registers=4,
            params_m=5.5,
            image_size=224,
            source="packaged",
            licence="BSD-3-Clause",
        ),
        *_dinov2("s", "small", dim=384, depth=12, heads=6, params_m=22.1),
        *_dinov2("b", "base", dim=768, depth=12, heads=12, params_m=86.6),
        *_dinov2("l", "large", dim=1024, depth=24, heads=16, params_m=304.4),
        *_dinov2("g", "giant", dim=1536, depth=40, heads=24, params_m=1136.5),
        BackboneSpec(
            name="tiny-test",
            timm_id="vit_small_patch14_reg4_dinov2",
            embed_dim=64,
            depth=4,
            num_heads=2,
            registers=4,
            params_m=0.24,
            image_size=112,
            source="random",
            licence="BSD-3-Clause",
        ),
    )
}


def get_spec(name: str) -> BackboneSpec:
    """The backbone of that name.

    Raises
    ------
    InputError
        There is none; the text names those there are.

    Examples
    --------
    >>> get_spec("dinov2_vits14_reg").hub_repo
    'timm/vit_small_patch14_reg4_dinov2.lvd142m'
    """
    try:
        return BACKBONES[name]
    except KeyError:
        public = [s.name for s in BACKBONES.values() if s.source != "random"]
        raise InputError(f"backbone is {name!r}", expected="one of " + ", ".join(public)) from None
