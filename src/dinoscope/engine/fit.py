"""The training loop: steps, schedule, averaged weights, checkpoints, validation. A generator."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dinoscope.engine.balance import balance
from dinoscope.engine.batches import Batch, BatchSource, batch_stream
from dinoscope.engine.cached import TokenPool
from dinoscope.engine.ranks import Ranks, own
from dinoscope.errors import OutputError, TrainingError
from dinoscope.models.heads import pool_tokens
from dinoscope.models.lowrank import fast_lora
from dinoscope.models.model import Model
from dinoscope.tasks.base import task
from dinoscope.types import Progress

#: Bytes of a checkpoint are written at most this often.
CHECKPOINT_S = 60.0
#: At most this share of the time goes into validation.
VALIDATION_SHARE = 0.08


@dataclass(frozen=True)
class FitOptions:
    """How a fit runs; `seconds` or `steps` ends it, whichever comes first.

    `frozen_backbone` skips the backbone's gradients altogether (heads only). `rates` scales the
    learning rate of parameters by prefix of their name. `patience` is the number of validations
    without a better score after which the fit ends; 0 = never early. `clock` tells the seconds that
    count: one that can be stopped leaves out pauses.
    """

    seconds: float | None
    steps: int | None
    learning_rate: float
    weight_decay: float
    balance: str = "equal"
    balance_weights: Mapping[str, float] = field(default_factory=dict)
    frozen_backbone: bool = False
    autocast: torch.dtype | None = None
    device: str = "cpu"
    workers: int = 1
    rates: Mapping[str, float] = field(default_factory=dict)
    loss_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    average: float = 0.998
    gradient_clip: float = 1.0
    warmup: float = 0.05
    schedule: str = "cosine"
    patience: int = 0
    log_every: int = 1
    validate_every_s: float = 60.0
    clock: Callable[[], float] = time.monotonic


@dataclass
class FitState:
    """What a checkpoint holds besides tensors."""

    step: int = 0
    seconds: float = 0.0
    best_score: float = -math.inf
    best_step: int = 0
    stale: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


Validate = Callable[[Model], Mapping[str, float]]


class ExtraLoss(Protocol):
    """What is learned beside the labels of a batch, such as from images without labels."""

    name: str

    def __call__(self, model: Model, step: int, share_done: float) -> Tensor | None:
        """What is added to the loss of this step; None for nothing. `share_done` is in [0, 1]."""
        ...

    def after_step(self, parameters: Mapping[str, Tensor]) -> None:
        """Told the trained parameters after each step."""
        ...

    def state(self) -> dict[str, Any]:
        """Tensors and plain values for the checkpoint."""
        ...

    def load(self, state: Mapping[str, Any]) -> None:
        """Take what `state` gave."""
        ...


class WeightAverage:
    """Exponential moving average of trainable tensors; what is validated and kept."""

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.tensors = {n: p.detach().clone().float() for n, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, Tensor], step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        own = list(self.tensors.values())
        torch._foreach_lerp_(own, [parameters[n].detach().float() for n in self.tensors], 1 - decay)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that a fit changes, by name."""
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def fit(
    model: Model,
    batches: BatchSource,
    options: FitOptions,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    validate: Validate | None = None,
    start_score: float | None = None,
    extras: Sequence[ExtraLoss] = (),
    pool: TokenPool | None = None,
    ranks: Ranks | None = None,
) -> Generator[Progress, None, FitState]:
    """Train `model` in place; at the end it holds the best averaged weights.

    `validate` is called with the averaged weights in place, and gives scores, or nothing where it
    only wants to look at them; the best ``score`` decides which weights are kept (else the last).
    `start_score` is the validation score of the weights as they are: they come back at the end
    where no later ones reach it. `extras` add losses of their own to every step. With `pool`, most
    steps begin at kept tokens. With several `ranks`, each trains on batches of its own, and the
    first one validates and writes.

    Yields
    ------
    Progress
        After each step, with ``loss``, ``loss_<task>``, ``lr``, ``images_per_s``, ``loader_idle``
        (share of the time spent waiting for batches) and after a validation
        ``val_<metric>`` in its values.

    Returns
    -------
    FitState
        Steps, seconds, and the history of validations.

    Raises
    ------
    TrainingError
        A loss is not finite: the last good state was kept in `checkpoint`, the batch is named.
    """
    ranks = ranks or Ranks()
    device = torch.device(ranks.device or options.device)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = trainable(model)
    if not parameters:
        raise TrainingError(
            "no parameter is trainable", hint="Choose what to tune: heads, LoRA or full."
        )
    optimizer = torch.optim.AdamW(
        _groups(parameters, options),
        lr=options.learning_rate,
        fused=device.type in ("cpu", "cuda"),  # one pass instead of a dozen
    )
    average = WeightAverage(parameters, options.average)
    best = {n: t.clone() for n, t in average.tensors.items()}
    weigh = balance(options.balance, options.balance_weights, parameters=parameters)
    state = FitState(best_score=-math.inf if start_score is None else start_score)
    if resume and checkpoint is not None and checkpoint.exists():
        _restore(checkpoint, model, optimizer, average, best, weigh, state, extras)
    ranks.spread(parameters.values())
    stream = batch_stream(own(batches, ranks), state.step, options.workers)
    if pool is not None:
        stream = pool.stream(stream, state.step)
    begun = options.clock() - state.seconds
    saved = validated = options.clock()
    validation_s = 0.0
    images = 0
    started = options.clock()
    model.train()
    waited = 0.0
    with fast_lora(model, options.autocast):
        while True:
            asked = options.clock()
            batch = next(stream)
            waited += options.clock() - asked
            share = ranks.same(_share_done(options, state.step, options.clock() - begun))
            if share >= 1.0:
                break
            rate = _schedule(share, options.warmup, options.schedule)
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * group["scale"] * rate
            losses = losses_of(model, batch, options, device)
            total = weigh(
                losses, {n: len(rows) / len(batch.names) for n, (rows, _) in batch.truths.items()}
            )
            added = {
                e.name: loss for e in extras if (loss := e(model, state.step, share)) is not None
            }
            for loss in added.values():
                total = total + loss
            if ranks.count == 1 and not bool(torch.isfinite(total)):
                use_weights(model, best)
                raise _not_finite("loss", float(total.detach()), state.step, batch)
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            ranks.mean_gradients(parameters.values())
            norm = nn.utils.clip_grad_norm_(parameters.values(), options.gradient_clip)
            if not bool(torch.isfinite(norm)):
                use_weights(model, best)
                raise _not_finite("gradient", float(norm), state.step, batch)
            weigh.after_backward()
            optimizer.step()
            average.update(parameters, state.step)
            for extra in extras:
                extra.after_step(parameters)
            state.step += 1
            now = options.clock()
            state.seconds = now - begun
            images += ranks.count * len(batch.names)
            values = {f"loss_{n}": float(v.detach()) for n, v in losses.items()}
            values |= {"loss": sum(values.values()), "lr": options.learning_rate * rate}
            values |= {f"loss_{n}": float(v.detach()) for n, v in added.items()}
            values["images_per_s"] = images / max(1e-6, now - started - validation_s)
            values["loader_idle"] = waited / max(1e-6, now - started - validation_s)
            share = ranks.same(_share_done(options, state.step, state.seconds))
            due = now - validated > max(
                options.validate_every_s, validation_s / VALIDATION_SHARE * 0.2
            )
            if validate is not None and (bool(ranks.same(due)) or share >= 1.0):
                scores = _validate(model, average, parameters, validate) if ranks.first else {}
                validated = options.clock()
                validation_s += validated - now
                if ranks.same(float(bool(scores))):  # else it only wanted to look at the model
                    score = ranks.same(float(scores.get("score", 0.0)))
                    values |= {f"val_{n}": float(v) for n, v in {**scores, "score": score}.items()}
                    state.history.append({"step": state.step, "seconds": state.seconds, **values})
                    if score >= state.best_score:
                        state.best_score, state.best_step = score, state.step
                        best = {n: t.clone() for n, t in average.tensors.items()}
                        state.stale = 0
                    else:
                        state.stale += 1
            stop = bool(options.patience) and state.stale >= options.patience
            if checkpoint is not None and ranks.first and options.clock() - saved > CHECKPOINT_S:
                saved = options.clock()
                try:
                    save_checkpoint(
                        checkpoint, optimizer, parameters, average, best, weigh, state, extras
                    )
                except OutputError as error:  # the training itself has lost nothing
                    yield Progress(
                        "train", int(share * 1000), 1000, None, f"warning: {error}", values
                    )
            if state.step % options.log_every == 0 or any(n.startswith("val_") for n in values):
                left = None if share <= 0 else state.seconds * (1 - share) / share
                yield Progress("train", int(share * 1000), 1000, left, f"step {state.step}", values)
            if stop:
                break
    if checkpoint is not None and ranks.first:
        save_checkpoint(checkpoint, optimizer, parameters, average, best, weigh, state, extras)
    ranks.wait()
    use_weights(model, best if validate is not None and state.history else average.tensors)
    model.eval()
    return state


def _not_finite(what: str, value: float, step: int, batch: Batch) -> TrainingError:
    return TrainingError(
        f"the {what} became {value} at step {step}, in a batch of "
        f"{', '.join(dict.fromkeys(batch.names))}",
        hint="The last good state was kept. Check these images, or train more slowly.",
    )


def _groups(parameters: Mapping[str, nn.Parameter], options: FitOptions) -> list[dict[str, Any]]:
    """Parameters grouped by learning-rate scale and by whether they decay (matrices do)."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        scale = next((s for p, s in options.rates.items() if name.startswith(p)), 1.0)
        groups.setdefault((scale, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": members, "scale": scale, "weight_decay": options.weight_decay if decays else 0.0}
        for (scale, decays), members in groups.items()
    ]


def _share_done(options: FitOptions, step: int, seconds: float) -> float:
    shares = [0.0]
    if options.seconds is not None:
        shares.append(seconds / options.seconds)
    if options.steps is not None:
        shares.append(step / options.steps)
    return max(shares)


def _schedule(share: float, warmup: float, kind: str = "cosine") -> float:
    """Share of the peak learning rate.

    ``cosine``: linear warm-up, then half a cosine down to 1 %. ``onecycle`` (Smith and Topin 2018,
    arXiv:1708.07120): from 4 % up over three tenths of the run and down to nothing, half a cosine
    each.
    """
    share = min(1.0, share)
    if kind == "onecycle":
        rise = max(0.3, warmup)
        if share < rise:
            return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * share / rise))
        return 1e-4 + (1 - 1e-4) * 0.5 * (1 + math.cos(math.pi * (share - rise) / (1 - rise)))
    if share < warmup:
        return max(share / warmup, 0.01)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))


def losses_of(
    model: Model, batch: Batch, options: FitOptions, device: torch.device
) -> dict[str, Tensor]:
    """The loss of each task on a batch, from kept tokens where it has them."""
    pixels = batch.pixels.to(device).contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, options.autocast, enabled=options.autocast is not None):
        with torch.set_grad_enabled(not options.frozen_backbone):
            if batch.tokens is None:
                features = model.encode(pixels)
            else:
                lower = batch.tokens.to(device)
                features = model.backbone.run_blocks(
                    lower.tokens, lower.grid, lower.start, list(lower.kept)
                )
        rows = {n: r.to(device) for n, (r, _) in batch.truths.items()}
        dense = {n: r for n, r in rows.items() if task(n).dense}
        outputs = model.decode_dense(features, pixels, dense, rows=dense)
        if "classification" in rows:
            pooled = pool_tokens(model.pooled_features(features, pixels))
            outputs["classification"] = model.decode_pooled(pooled[rows["classification"]])
    losses = {}
    for name, (_, truth) in batch.truths.items():
        settings = options.loss_settings.get(name, {})
        losses[name] = task(name).loss(outputs[name], truth.to(device), settings)
    return losses


@torch.no_grad()
def use_weights(model: Model, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors over the parameters of their names."""
    own = dict(model.named_parameters())
    for name, value in tensors.items():
        own[name].copy_(value)


def _validate(
    model: Model,
    average: WeightAverage,
    parameters: Mapping[str, nn.Parameter],
    validate: Validate,
) -> Mapping[str, float]:
    """Scores of the averaged weights; the training weights come back afterwards."""
    kept = {n: p.detach().clone() for n, p in parameters.items()}
    use_weights(model, average.tensors)
    model.eval()
    try:
        with torch.no_grad():
            return validate(model)
    finally:
        use_weights(model, kept)
        model.train()


def save_checkpoint(
    path: Path,
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, Tensor],
    average: WeightAverage,
    best: Mapping[str, Tensor],
    weigh: Any,
    state: FitState,
    extras: Sequence[ExtraLoss] = (),
) -> None:
    """Write everything a resumed run needs, under a temporary name that is then renamed.

    Raises
    ------
    OutputError
        The disk is full or the folder cannot be written.
    """
    content = {
        "parameters": {n: p.detach() for n, p in parameters.items()},
        "average": average.tensors,
        "best": dict(best),
        "optimizer": optimizer.state_dict(),
        "balance": weigh.state(),
        "state": dict(vars(state)),
        "extras": {e.name: e.state() for e in extras},
    }
    temporary = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        temporary.unlink(missing_ok=True)
        raise OutputError(
            f"checkpoint {str(path)!r} cannot be written ({error})",
            hint="Free some space or choose another folder; an earlier checkpoint is still there.",
        ) from error


def _restore(
    path: Path,
    model: Model,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage,
    best: dict[str, Tensor],
    weigh: Any,
    state: FitState,
    extras: Sequence[ExtraLoss] = (),
) -> None:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if set(content["parameters"]) != set(average.tensors):
        raise TrainingError(
            f"checkpoint {str(path)!r} belongs to another run (its trained tensors differ)",
            hint="Start anew without --resume, or give the options of that run.",
        )
    use_weights(model, content["parameters"])
    for name, value in content["average"].items():
        average.tensors[name].copy_(value)
    best.update(content["best"])
    optimizer.load_state_dict(content["optimizer"])
    weigh.load(content["balance"]) if content["balance"] else None
    vars(state).update(content["state"])
    kept = content.get("extras", {})
    for extra in extras:
        if extra.name in kept:
            extra.load(kept[extra.name])


def drain(events: Iterable[Progress]) -> None:
    """Run a generator to its end, for callers that do not look at progress."""
    for _ in events:
        pass
