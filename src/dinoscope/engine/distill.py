"""Self-distillation on images without labels: the backbone's LoRA learns what the images are like.

The student sees crops with changed intensity and with blocks of patches masked; it has to give the
tokens that an averaged teacher gives on the unmasked crops as they are: of the class token as in
DINO (Caron et al. 2021, arXiv:2104.14294), of each masked patch as in iBOT (Zhou et al. 2022,
arXiv:2111.07832). Tokens are compared as distributions over prototypes; the teacher's are centred
and sharpened, which keeps them from collapsing to one answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dinoscope.config import UnlabelledOptions
from dinoscope.engine.unlabelled import Teacher, Views, ramp
from dinoscope.errors import InputError
from dinoscope.models.backbone import Backbone, FeatureMap
from dinoscope.models.model import Model

PROTOTYPES = 512
#: Softmax temperatures: the teacher's is lower (sharpening).
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.04
#: How much of the centre is kept in a step.
CENTRE_KEPT = 0.9
#: Share of the patches that is masked, and of the crops that are masked at all.
MASKED_SHARE, MASKED_CROPS = (0.15, 0.5), 0.75
#: Learning rate of the projection, which is thrown away at the end.
PROJECTION_RATE = 1e-3


class Projection(nn.Module):
    """Tokens ``(N, D)`` to logits ``(N, PROTOTYPES)``: a small perceptron, then cosines."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = min(1024, 4 * dim)
        self.layers = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, 128))
        self.prototypes = nn.Parameter(F.normalize(torch.randn(PROTOTYPES, 128), dim=1))

    def forward(self, tokens: Tensor) -> Tensor:
        found = F.normalize(self.layers(tokens.float()), dim=1)
        return found @ F.normalize(self.prototypes, dim=1).T


class Distillation:
    """An additional loss of `engine.fit.fit`: masked crops against an averaged teacher.

    Parameters
    ----------
    views : Views
        Where the crops come from.
    options : UnlabelledOptions
        Weight, ramp-up, decay of the teacher.

    Raises
    ------
    InputError
        Raised when first called: no parameter of the backbone is trained.
    """

    name = "distill"

    def __init__(
        self,
        views: Views,
        model: Model,
        options: UnlabelledOptions,
        *,
        device: str = "cpu",
        autocast: torch.dtype | None = None,
    ) -> None:
        if not any(
            n.startswith("backbone.") for n, p in model.named_parameters() if p.requires_grad
        ):
            raise InputError(
                "distill was asked for, but no part of the backbone is trained",
                expected="LoRA in the backbone, or full training",
                hint="Choose --tune lora-last:K or lora-all.",
            )
        self.views = views
        self.options = options
        self.device = torch.device(device)
        self.autocast = autocast
        dim = model.backbone.embed_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(views.seed)
            self.heads = nn.ModuleDict({"cls": Projection(dim), "patch": Projection(dim)})
        self.heads.to(self.device)
        self.mask_token = nn.Parameter(torch.zeros(dim, device=self.device))
        self.centres = {n: torch.zeros(PROTOTYPES, device=self.device) for n in self.heads}
        own = [*self.heads.parameters(), self.mask_token]
        self.optimizer = torch.optim.AdamW(own, lr=PROJECTION_RATE, weight_decay=0.04)
        self.teacher = Teacher(options.teacher_decay)
        self.teacher_heads = Teacher(options.teacher_decay)
        self.teacher_heads.begin(dict(self.heads.named_parameters()))
        self.called = False

    def __call__(self, model: Model, step: int, share_done: float) -> Tensor | None:
        """The weighted loss of one batch of crops."""
        self.teacher.begin(_backbone_part(dict(model.named_parameters())))
        weight = self.options.weight * ramp(share_done, self.options.ramp_up)
        if weight < 0.01 * self.options.weight or weight == 0:
            return None
        weak, strong = (v.to(self.device) for v in self.views(step))
        patch = model.backbone.patch
        grid = (weak.shape[-2] // patch, weak.shape[-1] // patch)
        masks = random_masks(len(weak), grid, np.random.default_rng([self.views.seed, step, 2]))
        mask = torch.from_numpy(masks).to(self.device)
        targets = self._targets(model, weak, mask)
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            seen = masked_tokens(model.backbone, strong, mask, self.mask_token)
        said = {
            "cls": self.heads["cls"](seen.cls_token),
            "patch": self.heads["patch"](_at(seen, mask)),
        }
        losses = [
            -(targets[n] * F.log_softmax(said[n] / STUDENT_TEMPERATURE, 1)).sum(1).mean()
            for n in said
            if len(said[n])
        ]
        self.called = True
        # A uniform answer costs log(PROTOTYPES); divided by it, the loss begins near 1.
        return weight * torch.stack(losses).mean() / float(np.log(PROTOTYPES))

    @torch.no_grad()
    def _targets(self, model: Model, pixels: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The teacher's distributions over prototypes, centred and sharpened."""
        tensors = {n.removeprefix("backbone."): t for n, t in self.teacher.tensors.items()}
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            features: FeatureMap = torch.func.functional_call(model.backbone, tensors, (pixels,))
        tokens = {"cls": features.cls_token, "patch": _at(features, mask)}
        targets = {}
        for name, found in tokens.items():
            own = {
                n.removeprefix(f"{name}."): t
                for n, t in self.teacher_heads.tensors.items()
                if n.startswith(f"{name}.")
            }
            logits = torch.func.functional_call(self.heads[name], own, (found,))
            targets[name] = F.softmax((logits - self.centres[name]) / TEACHER_TEMPERATURE, 1)
            if len(logits):
                self.centres[name].lerp_(logits.mean(0), 1 - CENTRE_KEPT)
        return targets

    def after_step(self, parameters: Mapping[str, Tensor]) -> None:
        """Train the projection, let the teachers follow."""
        if self.called:
            nn.utils.clip_grad_norm_([*self.heads.parameters(), self.mask_token], 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.called = False
        self.teacher.update(_backbone_part(parameters))
        self.teacher_heads.update(dict(self.heads.named_parameters()))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "teacher": dict(self.teacher.state()),
            "teacher_heads": dict(self.teacher_heads.state()),
            "heads": self.heads.state_dict(),
            "mask_token": self.mask_token.detach(),
            "centres": self.centres,
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.teacher.load(state["teacher"])
        self.teacher_heads.load(state["teacher_heads"])
        self.heads.load_state_dict(state["heads"])
        with torch.no_grad():
            self.mask_token.copy_(state["mask_token"])
        self.centres = {n: t.to(self.device) for n, t in state["centres"].items()}
        self.optimizer.load_state_dict(state["optimizer"])


def _backbone_part(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: p for n, p in parameters.items() if n.startswith("backbone.") and p.requires_grad}


def _at(features: FeatureMap, mask: Tensor) -> Tensor:
    """Last tokens ``(N, D)`` of the masked patches."""
    return features.last.permute(0, 2, 3, 1)[mask]


def masked_tokens(backbone: Backbone, pixels: Tensor, mask: Tensor, token: Tensor) -> FeatureMap:
    """Tokens of crops whose patches under `mask` (B, h, w) were replaced by `token` (D,)."""
    vit = backbone.vit
    embedded = vit.patch_embed((pixels - backbone.mean) / backbone.std)  # (B, h, w, D)
    embedded = torch.where(mask[..., None], token.to(embedded), embedded)
    return backbone.run_blocks(vit.place(embedded), (mask.shape[1], mask.shape[2]))


def random_masks(count: int, grid: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Blocks of patches to mask, ``(count, h, w)`` bool; some crops have none, one at least has.

    Blocks rather than single patches, as in BEiT (Bao et al. 2022, arXiv:2106.08254): one patch
    could be guessed from its neighbours.
    """
    masks = np.zeros((count, *grid), bool)
    for number in range(count):
        if number and rng.random() >= MASKED_CROPS:
            continue
        wanted = max(1, round(float(rng.uniform(*MASKED_SHARE)) * grid[0] * grid[1]))
        while masks[number].sum() < wanted:
            area = float(rng.uniform(0.3, 1.0)) * wanted
            tall = float(np.exp(rng.uniform(np.log(0.5), np.log(2.0))))
            h = int(np.clip(round(np.sqrt(area * tall)), 1, grid[0]))
            w = int(np.clip(round(np.sqrt(area / tall)), 1, grid[1]))
            y, x = int(rng.integers(grid[0] - h + 1)), int(rng.integers(grid[1] - w + 1))
            masks[number, y : y + h, x : x + w] = True
    return masks


def token_spread(features: FeatureMap) -> float:
    """How much the patch tokens of a batch differ: 0 where all are alike (collapse).

    Standard deviation over patches of tokens of unit length, times √D: about 1 for directions at
    random.
    """
    tokens = F.normalize(features.last.detach().float().permute(0, 2, 3, 1).flatten(0, 2), dim=1)
    return float(tokens.std(0, correction=0).mean() * np.sqrt(tokens.shape[1]))
