"""How several losses become one.

Every balance also weighs a task by the share of the batch that has a truth for it, so that one
annotated crop counts the same whichever batch it falls into.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dinoscope.errors import InputError

#: Steps whose mean is a task's initial loss.
_INITIAL_STEPS = 10


class EqualBalance:
    """Each loss divided by its own initial value, then added up: tasks of any scale weigh the
    same."""

    def __init__(self) -> None:
        self.initial: dict[str, float] = {}
        self.seen: dict[str, int] = {}

    def __call__(self, losses: Mapping[str, Tensor], shares: Mapping[str, float]) -> Tensor:
        for name, loss in losses.items():
            seen = self.seen.get(name, 0)
            if seen < _INITIAL_STEPS:
                value = float(loss.detach())
                self.initial[name] = (self.initial.get(name, 0.0) * seen + value) / (seen + 1)
                self.seen[name] = seen + 1
        return _total(
            {n: loss * (shares[n] / max(self.initial[n], 1e-8)) for n, loss in losses.items()}
        )

    def state(self) -> dict[str, dict[str, float]]:
        return {"initial": dict(self.initial), "seen": {k: float(v) for k, v in self.seen.items()}}

    def load(self, state: Mapping[str, Mapping[str, float]]) -> None:
        self.initial = dict(state["initial"])
        self.seen = {k: int(v) for k, v in state["seen"].items()}


class FixedBalance:
    """Losses times given weights (1 where none is given)."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self.weights = dict(weights or {})

    def __call__(self, losses: Mapping[str, Tensor], shares: Mapping[str, float]) -> Tensor:
        return _total({n: v * (shares[n] * self.weights.get(n, 1.0)) for n, v in losses.items()})

    def state(self) -> dict[str, dict[str, float]]:
        return {}

    def load(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Nothing is remembered."""


def _total(losses: Mapping[str, Tensor]) -> Tensor:
    if not losses:
        raise InputError(
            "a batch has no truth for any task", expected="at least one annotated image"
        )
    values = list(losses.values())
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def balance(kind: str, weights: Mapping[str, float] | None = None) -> EqualBalance | FixedBalance:
    """``equal`` or ``fixed``."""
    return EqualBalance() if kind == "equal" else FixedBalance(weights)
