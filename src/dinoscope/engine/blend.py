"""Between the weights that a training began with and those that it found.

A few images teach what they show and spoil some of what they do not. Weights on the straight line
between both keep most of what was known and most of what was learned (Wortsman et al. 2022, *Robust
fine-tuning of zero-shot models*, arXiv:2109.01903).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping

import torch
from torch import Tensor

from dinoscope.engine.fit import trainable, use_weights
from dinoscope.engine.ranks import Ranks
from dinoscope.models.model import Model
from dinoscope.types import Progress

#: How far from the weights before (0) to those found (1) is tried.
SHARES = (0.25, 0.5, 0.75)
#: Fewer held-out images than this cannot judge alone: training images do so with them…
FEW = 4
#: …and as those are known by heart, the smallest change with this much of the best score is taken.
NEARLY = 0.97


def snapshot(model: Model) -> dict[str, Tensor]:
    """Copies of the tensors that a training of `model` would change."""
    return {name: p.detach().clone() for name, p in trainable(model).items()}


def blend(
    model: Model,
    start: Mapping[str, Tensor],
    judge: Callable[[Model], Mapping[str, float]],
    *,
    nearly: float = 1.0,
    ranks: Ranks | None = None,
) -> Generator[Progress, None, tuple[float, dict[str, float]]]:
    """Put `model` where on the way from `start` to its present weights `judge` likes it best.

    Parameters
    ----------
    model : Model
        After training, in evaluation mode.
    start : mapping of str to Tensor
        What `snapshot` gave before.
    judge : callable
        Gives ``score`` of a model, larger is better.
    nearly : float
        The smallest share that reaches this much of the best score is taken; of equal ones at 1 the
        largest.
    ranks : Ranks, optional
        With several processes the first one judges.

    Returns
    -------
    tuple
        The share of what was found, 1 where nothing was changed, and what `judge` said of it.
    """
    ranks = ranks or Ranks()
    found = {name: tensor for name, tensor in snapshot(model).items() if name in start}
    said: dict[float, dict[str, float]] = {}
    for number, share in enumerate((*SHARES, 1.0)):
        message = f"weights with {share:.0%} of the change"
        yield Progress("blend", number, len(SHARES) + 1, message=message)
        use_weights(model, _between(start, found, share))
        with torch.no_grad():
            said[share] = dict(judge(model)) if ranks.first else {"score": 0.0}
    scores = {share: ranks.same(float(said[share]["score"])) for share in said}
    chosen = choose(scores, nearly)
    use_weights(model, _between(start, found, chosen))
    return chosen, said[chosen]


def choose(scores: Mapping[float, float], nearly: float) -> float:
    """The share to take, by the score of each."""
    best = max(scores.values())
    if nearly >= 1:
        return max(share for share, score in scores.items() if score >= best)
    return min(share for share, score in scores.items() if score >= nearly * best)


def _between(
    start: Mapping[str, Tensor], found: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    return {n: torch.lerp(start[n].float(), t.float(), share) for n, t in found.items()}
