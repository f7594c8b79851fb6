"""How several losses become one.

Every balance also weighs a task by the share of the batch that has a truth for it, so that one
annotated crop counts the same whichever batch it falls into.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dinoscope.errors import InputError, TrainingError

#: Steps whose mean is a task's initial loss.
_INITIAL_STEPS = 10
#: Learning rate of the logarithms of the variances (Adam).
_UNCERTAINTY_RATE = 0.01
#: Log variances are kept within this, so that no task is lost or takes over for ever.
_MOST_LOG_VARIANCE = 6.0
#: GradNorm's asymmetry: how much more a task that learns slowly is pulled (Chen et al.: 1.5 where
#: tasks differ, 0.5 where they are alike).
GRADNORM_ALPHA = 1.0
#: Share of the way to its target that a logarithm of GradNorm's weights goes in a step.
_GRADNORM_RATE = 0.1
#: Decay of the running means of gradient norms and losses, which are noisy from batch to batch.
_GRADNORM_MEMORY = 0.9


class Balance(Protocol):
    """What turns the losses of a batch into one."""

    def __call__(self, losses: Mapping[str, Tensor], shares: Mapping[str, float]) -> Tensor:
        """The loss to descend; `shares` of the batch have a truth for each task."""
        ...

    def after_backward(self) -> None:
        """Told that gradients are there; whatever the balance learns by itself is learned here."""
        ...

    def state(self) -> dict[str, dict[str, float]]:
        """What a checkpoint keeps."""
        ...

    def load(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Take what `state` gave."""
        ...


class _InitialLosses:
    """The mean of each task's first losses."""

    def __init__(self) -> None:
        self.value: dict[str, float] = {}
        self.seen: dict[str, int] = {}

    def update(self, losses: Mapping[str, Tensor]) -> None:
        for name, loss in losses.items():
            seen = self.seen.get(name, 0)
            if seen < _INITIAL_STEPS:
                value = float(loss.detach())
                self.value[name] = (self.value.get(name, 0.0) * seen + value) / (seen + 1)
                self.seen[name] = seen + 1

    def state(self) -> dict[str, dict[str, float]]:
        return {"initial": dict(self.value), "seen": {k: float(v) for k, v in self.seen.items()}}

    def load(self, state: Mapping[str, Mapping[str, float]]) -> None:
        self.value = dict(state["initial"])
        self.seen = {k: int(v) for k, v in state["seen"].items()}


class EqualBalance:
    """Each loss divided by its own initial value, then added up: tasks of any scale weigh the
    same."""

    def __init__(self) -> None:
        self._initial = _InitialLosses()

    @property
    def initial(self) -> Mapping[str, float]:
        """Initial loss of each task seen so far."""
        return self._initial.value

    def __call__(self, losses: Mapping[str, Tensor], shares: Mapping[str, float]) -> Tensor:
        self._initial.update(losses)
        return _total({n: v * (shares[n] / max(self.initial[n], 1e-8)) for n, v in losses.items()})

    def after_backward(self) -> None:
        """Nothing is learned."""

    def state(self) -> dict[str, dict[str, float]]:
        return self._initial.state()

    def load(self, state: Mapping[str, Mapping[str, float]]) -> None:
        self._initial.load(state)


class FixedBalance:
    """Losses times given weights (1 where none is given)."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self.weights = dict(weights or {})

    def __call__(self, losses: Mapping[str, Tensor], shares: Mapping[str, float]) -> Tensor:
        return _total({n: v * (shares[n] * self.weights.get(n, 1.0)) for n, v in losses.items()})

    def after_backward(self) -> None:
        """Nothing is learned."""

    def state(self) -> dict[str, dict[str, float]]:
        return {}

    def load(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Nothing is remembered."""


class UncertaintyBalance:
    """Each loss over a variance that is learned along with the model (Kendall, Gal and Cipolla,
    CVPR 2018, arXiv:1705.07115): ``exp(-s) L + s`` with one logarithm ``s`` a task.

    The losses are divided by their initial values first; without that a task of large loss takes
    hundreds of steps to be weighed down.
    """

    def __init__(self) -> None:
        self._initial = _InitialLosses()
        self.log_variance: dict[str, nn.Parameter] = {}
        self._optimizer: torch.optim.Optimizer | None = None

    def __call__(self, losses: Mapping[str, Tensor], shares: Mapping[str, float]) -> Tensor:
        self._initial.update(losses)
        terms = {}
        for name, loss in losses.items():
            s = self._of(name, loss.device)
            relative = loss / max(self._initial.value[name], 1e-8)
            terms[name] = shares[name] * (torch.exp(-s) * relative + s)
        return _total(terms)

    def after_backward(self) -> None:
        if self._optimizer is not None:
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                for value in self.log_variance.values():
                    value.clamp_(-_MOST_LOG_VARIANCE, _MOST_LOG_VARIANCE)

    def state(self) -> dict[str, dict[str, float]]:
        logs = {n: float(v.detach()) for n, v in self.log_variance.items()}
        return {**self._initial.state(), "log_variance": logs}

    def load(self, state: Mapping[str, Mapping[str, float]]) -> None:
        self._initial.load(state)
        for name, value in state["log_variance"].items():
            with torch.no_grad():
                self._of(name, torch.device("cpu")).fill_(value)

    def _of(self, name: str, device: torch.device) -> nn.Parameter:
        if name not in self.log_variance:
            parameter = nn.Parameter(torch.zeros((), device=device))
            self.log_variance[name] = parameter
            if self._optimizer is None:
                self._optimizer = torch.optim.Adam([parameter], lr=_UNCERTAINTY_RATE)
            else:
                self._optimizer.add_param_group({"params": [parameter]})
        return self.log_variance[name]


class GradNormBalance:
    """Weights that make the tasks' gradients alike in norm (Chen et al., ICML 2018,
    arXiv:1711.02257), more so for tasks that learn slowly.

    With ``G_i = w_i |grad L_i|`` over the `shared` parameters and ``r_i`` the relative loss of task
    i over the mean of all, the target is ``mean(G) r_i ** alpha``. The paper descends ``|G_i -
    target|`` with an optimiser of its own; here the logarithm of each weight goes a fixed share of
    the way to its target, which has the same resting point and does not depend on the losses'
    scale. Weights are renormalised to add up to the number of tasks. A task that is absent from a
    batch keeps its weight.

    Parameters
    ----------
    shared : sequence of nn.Parameter
        What all tasks change, by convention those of the last adapted block.
    alpha : float
        0 = equal norms whatever the learning speed.

    Raises
    ------
    TrainingError
        Nothing is shared: only heads are trained.
    """

    def __init__(self, shared: Sequence[nn.Parameter], alpha: float = GRADNORM_ALPHA) -> None:
        if not shared:
            raise TrainingError(
                "GradNorm balances the gradients that the tasks send into the backbone, and no "
                "parameter of the backbone is trained",
                hint="Choose another balance (equal), or tune LoRA layers in the backbone.",
            )
        self.shared = list(shared)
        self.alpha = alpha
        self.weights: dict[str, float] = {}
        self._norm: dict[str, float] = {}
        self._loss: dict[str, float] = {}
        self._initial = _InitialLosses()

    def __call__(self, losses: Mapping[str, Tensor], shares: Mapping[str, float]) -> Tensor:
        self._initial.update(losses)
        for name, loss in losses.items():
            self.weights.setdefault(name, 1.0)
            self._remember(self._loss, name, float(loss.detach()))
            if len(losses) > 1 or name in self._norm:
                self._remember(self._norm, name, self._gradient_norm(loss))
        self._adjust([n for n in losses if n in self._norm])
        return _total({n: v * (shares[n] * self.weights[n]) for n, v in losses.items()})

    def after_backward(self) -> None:
        """The weights were adjusted before."""

    def state(self) -> dict[str, dict[str, float]]:
        return {
            **self._initial.state(),
            "weights": dict(self.weights),
            "norm": dict(self._norm),
            "loss": dict(self._loss),
        }

    def load(self, state: Mapping[str, Mapping[str, float]]) -> None:
        self._initial.load(state)
        self.weights = dict(state["weights"])
        self._norm, self._loss = dict(state["norm"]), dict(state["loss"])

    def _gradient_norm(self, loss: Tensor) -> float:
        gradients = torch.autograd.grad(loss, self.shared, retain_graph=True, allow_unused=True)
        squares = [g.detach().float().square().sum() for g in gradients if g is not None]
        return math.sqrt(float(torch.stack(squares).sum())) if squares else 0.0

    def _remember(self, memory: dict[str, float], name: str, value: float) -> None:
        old = memory.get(name)
        if math.isfinite(value):
            memory[name] = (
                value if old is None else _GRADNORM_MEMORY * old + (1 - _GRADNORM_MEMORY) * value
            )

    def _adjust(self, present: Sequence[str]) -> None:
        known = [n for n in self._norm if self._norm[n] > 0]
        if len(known) < 2:
            return
        relative = {n: self._loss[n] / max(self._initial.value[n], 1e-12) for n in known}
        mean = sum(relative.values()) / len(known)
        norms = {n: self.weights[n] * self._norm[n] for n in known}
        average = sum(norms.values()) / len(known)
        for name in known:
            if name in present and mean > 0:
                target = average * max(relative[name] / mean, 1e-6) ** self.alpha
                self.weights[name] *= (target / norms[name]) ** _GRADNORM_RATE
        scale = len(self.weights) / sum(self.weights.values())
        self.weights = {n: w * scale for n, w in self.weights.items()}


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


def shared_parameters(parameters: Mapping[str, nn.Parameter]) -> list[nn.Parameter]:
    """Those trained parameters that belong to the last of the backbone's blocks that has any."""
    blocks: dict[int, list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        found = re.search(r"^backbone\..*?blocks\.(\d+)\.", name)
        if found:
            blocks.setdefault(int(found[1]), []).append(parameter)
    return blocks[max(blocks)] if blocks else []


def balance(
    kind: str,
    weights: Mapping[str, float] | None = None,
    *,
    parameters: Mapping[str, Any] | None = None,
) -> Balance:
    """``equal``, ``fixed``, ``uncertainty`` or ``gradnorm``; the last needs what is trained."""
    if kind == "gradnorm":
        return GradNormBalance(shared_parameters(parameters or {}))
    if kind == "uncertainty":
        return UncertaintyBalance()
    return EqualBalance() if kind == "equal" else FixedBalance(weights)
