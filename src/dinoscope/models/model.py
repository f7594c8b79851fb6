"""Backbone, shared dense decoder and heads in one module, with its card."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dinoscope.errors import MissingHeadError
from dinoscope.models.backbone import Backbone, FeatureMap, build_backbone
from dinoscope.models.card import HeadSpec, ModelCard
from dinoscope.models.heads import DenseDecoder, build_head, pool_tokens
from dinoscope.models.registry import get_spec

if TYPE_CHECKING:
    from dinoscope.models.adapter import Lora


class Model(nn.Module):
    """A backbone with any subset of heads; the backbone runs once for all of them.

    Parameters
    ----------
    card : ModelCard
        Names the backbone and the heads.
    backbone : Backbone
        Built and, if wanted, filled with weights before.
    """

    def __init__(self, card: ModelCard, backbone: Backbone) -> None:
        super().__init__()
        self.card = card
        #: Adapter, as layers or merged (see `dinoscope.models.adapter`).
        self.lora: Lora | None = None
        #: What identifies the file it was loaded from (``container.model_hash``); empty for a
        #: fresh model.
        self.digest = ""
        #: Whether its file brought backbone weights of its own, which others cannot get elsewhere:
        #: what is made from it has to bring them too.
        self.carries_backbone = False
        self.backbone = backbone
        self.decoder: DenseDecoder | None = None
        self.heads = nn.ModuleDict()
        for task, spec in card.heads.items():
            self.add_head(task, spec)

    @property
    def token_dim(self) -> int:
        """Channels of the concatenated patch tokens."""
        return self.backbone.embed_dim * len(self.backbone.layers)

    @classmethod
    def fresh(
        cls,
        backbone_name: str,
        heads: Mapping[str, HeadSpec] | None = None,
        *,
        seed: int = 0,
        **card: Any,
    ) -> Model:
        """A randomly initialised model; `card` gives further entries of its card."""
        spec = get_spec(backbone_name)
        layers = tuple(card.pop("layers", ()) or spec.layers)
        entries: dict[str, Any] = {"name": backbone_name, **card}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(
                ModelCard(backbone=spec.name, layers=layers, heads=dict(heads or {}), **entries),
                build_backbone(spec, layers=layers),
            )

    @classmethod
    def from_card(cls, card: ModelCard) -> Model:
        """A model of the card's architecture; all of its weights must still be loaded."""
        spec = get_spec(card.backbone)
        return cls(card, build_backbone(spec, layers=card.layers or None, empty=True))

    def add_head(self, task: str, spec: HeadSpec) -> None:
        """Add or replace the head of `task`; a dense head brings the shared decoder with it."""
        if not spec.pooled and self.decoder is None:
            self.decoder = DenseDecoder(
                self.token_dim, self.backbone.patch, self.card.fine_channels
            )
        self.heads[task] = build_head(
            spec, self.token_dim, self.backbone.embed_dim, self.backbone.patch
        )
        self.card = self.card.replace(heads={**self.card.heads, task: spec})

    def keep_heads(self, tasks: Iterable[str]) -> None:
        """Remove all other heads, and the shared decoder where no dense head is left."""
        kept = set(tasks)
        for name in [n for n in self.heads if n not in kept]:
            del self.heads[name]
        heads = {n: s for n, s in self.card.heads.items() if n in kept}
        self.card = self.card.replace(heads=heads)
        if all(spec.pooled for spec in heads.values()):
            self.decoder = None

    def require_heads(self, tasks: Iterable[str]) -> None:
        """Raise `MissingHeadError` for the first task that has no head."""
        for task in tasks:
            if task not in self.heads:
                has = ", ".join(self.heads) or "none"
                raise MissingHeadError(
                    f"model {self.card.name!r} has no head for {task!r} (it has: {has})",
                    hint="Choose another model, or fine-tune this one on that task.",
                )

    def encode(self, x: Tensor) -> FeatureMap:
        """``(B, 3, Y, X)`` float in about [0, 1], sides multiples of the patch, to tokens."""
        return self.backbone(x)  # type: ignore[no-any-return]

    def decode_dense(
        self,
        features: FeatureMap,
        x: Tensor,
        tasks: Iterable[str],
        *,
        rows: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Raw maps ``(B, K, Y, X)`` of dense tasks, from one pass of the shared decoder.

        With `rows`, a task's head sees those tiles only: the others have no truth to learn from.
        """
        wanted = [t for t in tasks if not self.card.heads[t].pooled]
        if not wanted or self.decoder is None:
            return {}
        joined = self.decoder(features, x)
        if rows is None:
            return {task: self.heads[task](joined) for task in wanted}
        return {
            task: self.heads[task](joined if len(rows[task]) == len(joined) else joined[rows[task]])
            for task in wanted
        }

    def pooled_features(
        self, features: FeatureMap, x: Tensor, task: str = "classification"
    ) -> FeatureMap:
        """What is pooled for a head: tokens of the tiles `x`, and pixel features where it has
        them."""
        return self.heads[task].extend(features, x)  # type: ignore[no-any-return, operator]

    def decode_pooled(self, pooled: Tensor, task: str = "classification") -> Tensor:
        """Logits ``(N, K)`` of vectors from `pool_tokens` of `pooled_features`."""
        return self.heads[task](pooled)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Raw outputs of every head."""
        features = self.encode(x)
        outputs = self.decode_dense(features, x, self.heads)
        for task, spec in self.card.heads.items():
            if spec.pooled:
                pooled = pool_tokens(self.pooled_features(features, x, task))
                outputs[task] = self.decode_pooled(pooled, task)
        return outputs


def with_layers(model: Model, layers: tuple[int, ...]) -> Model:
    """A view of `model` that returns the tokens of other blocks; all weights are shared."""
    backbone: Backbone = copy.copy(model.backbone)
    backbone.layers = layers
    view = copy.copy(model)
    # A module's children live in a dictionary, which a shallow copy would share.
    view._modules = {**model._modules, "backbone": backbone}
    return view
