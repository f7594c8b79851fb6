"""Old against new, on the same held-out annotations."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dinoscope.engine.improve.baseline import FastLoop, fast_scores, model_scores
from dinoscope.engine.improve.holdout import Part
from dinoscope.engine.improve.prepare import Prepared
from dinoscope.engine.improve.scores import HeldScores, main_score
from dinoscope.engine.validate import MAIN_SCORE
from dinoscope.models.checkpoint import load_model
from dinoscope.models.model import Model
from dinoscope.types import Progress


@dataclass(frozen=True)
class Compared:
    """What the user has now: scores (means over the parts), and what they are of."""

    before: Mapping[str, float]
    notes: tuple[str, ...] = ()

    def is_better(self, after: Mapping[str, float]) -> bool:
        """Whether a new model beats it on the tasks that both can do, or does more tasks.

        Where both label the held-out strokes alike, the one that is surer of what is true there is
        the better one: strokes lie where classes are plain, so that many a model calls all right.
        """
        main = [n for n in MAIN_SCORE.values() if n in after]
        shared = [n for n in main if n in self.before]
        gain = sum(after[n] - self.before[n] for n in shared)
        if gain or not main:
            return gain > 0
        if len(main) > len(shared):
            return True
        loss = "log_loss"
        return loss in after and after[loss] < self.before.get(loss, 0.0)


def compare(work: Prepared) -> Generator[Progress, None, Compared]:
    """Judge what the user has now: the fast loop, and the base model where it has such a head.

    The fast loop is fitted on the strokes that the new model trains on, and no others. Of both, the
    better one counts.
    """
    yield Progress("compare", 0, 1, message="judging what you have now")
    setting = work.setting
    found: list[dict[str, float]] = []
    for part in work.holdout.parts:
        if not part.held:
            continue
        held = HeldScores(
            [i for p in part.held for i in (p.image, *p.objects) if i.targets],
            setting.plan,
            setting.classes,
            device=setting.device,
            dtype=setting.autocast,
        )
        model = load_model(work.base, device=setting.device)
        fast: dict[str, float] = {}
        if "semantic" in work.specs:
            fast, weights = yield from _preview_scores(work, model, part)
            held.weights = weights
        own = model_scores(model, work.specs, held)
        found.append(_better_of(own, fast))
    before = mean_scores(found)
    if before:
        before["score"] = round(main_score(before), 4)
    missing = [t for t in work.specs if MAIN_SCORE[t] not in before]
    notes = tuple(f"There was no {t} of these classes before." for t in missing if found)
    return Compared(before, notes)


def in_preview(
    work: Prepared, paths: Sequence[Path], alone: Mapping[str, float]
) -> Generator[Progress, None, dict[str, float]]:
    """Scores of the new model as the user will see it: in the preview, together with the strokes.

    Parameters
    ----------
    paths : sequence of Path
        The new model of each part.
    alone : mapping
        Its own scores. Its own IoU, that of a prediction without any strokes, becomes
        ``iou_alone``.
    """
    found = []
    for number, (part, path) in enumerate(zip(work.holdout.parts, paths, strict=True)):
        yield Progress("compare", number, len(paths), message="judging the new model")
        if part.held and "semantic" in work.specs:
            model = load_model(path, device=work.setting.device)
            scores, _ = yield from _preview_scores(work, model, part)
            found.append(scores)
    seen = mean_scores(found)
    if "iou" not in seen or "iou" not in alone:
        return dict(alone)
    scores = dict(alone) | {"iou_alone": alone["iou"]} | seen
    return scores | {"score": round(main_score(scores), 4)}


def _preview_scores(
    work: Prepared, model: Model, part: Part
) -> Generator[Progress, None, tuple[dict[str, float], list[float] | None]]:
    """Scores of the fast loop on a model, and how much a pixel of each class counts; nothing
    where no strokes train it."""
    loop = fast_loop(work, model, joined=True)
    try:
        if not (yield from loop.fit(part.training)):
            return {}, None
        return (yield from fast_scores(loop, part.held)), loop.weights()
    finally:
        loop.close()


def mean_scores(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each score's mean over the parts that have it."""
    names = dict.fromkeys(n for f in found for n in f)
    return {
        n: round(sum(f[n] for f in found if n in f) / sum(n in f for f in found), 4) for n in names
    }


def _better_of(own: Mapping[str, float], fast: Mapping[str, float]) -> dict[str, float]:
    """A model's scores, with the fast loop's IoU where that is higher."""
    if fast.get("iou", -1.0) <= own.get("iou", -1.0):
        return dict(own)
    return {n: v for n, v in own.items() if not n.startswith(("iou", "log_loss"))} | dict(fast)


def fast_loop(work: Prepared, model: Model | None = None, *, joined: bool = False) -> FastLoop:
    """The fast loop on the base model's tokens, or on a model's; it must be closed."""
    setting = work.setting
    return FastLoop(
        model or load_model(work.base, device=setting.device),
        work.images,
        setting.classes,
        threads=setting.options.threads,
        seed=setting.options.seed,
        joined=joined,
    )
