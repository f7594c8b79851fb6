"""A round of improvement: train on a project's annotations, compare, keep what is better.

Heads are trained first on kept tokens; LoRA begins from them (first the head, then the rest, keeps
features from being spoiled by a random head: Kumar et al. 2022, arXiv:2202.10054). Each stage is
kept only where it pays on annotations that nothing trained on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dinoscope.config import ImproveOptions
from dinoscope.engine.improve.choose import HEADS_SHARE
from dinoscope.engine.improve.compare import Compared, compare, fast_loop, in_preview, mean_scores
from dinoscope.engine.improve.guides import Guides, Teacher, fast_teacher, match_areas
from dinoscope.engine.improve.holdout import Part
from dinoscope.engine.improve.prepare import Prepared, prepare
from dinoscope.engine.improve.scores import HeldScores
from dinoscope.engine.improve.stages import Notebook, StageResult, told
from dinoscope.engine.improve.training import add_heads, image_sets, train_part
from dinoscope.engine.improve.unlabelled import consistency
from dinoscope.engine.improve.warm import warm_head
from dinoscope.errors import InputError
from dinoscope.models.card import ModelCard
from dinoscope.models.checkpoint import load_model, save_model
from dinoscope.project import Project, Round, opened
from dinoscope.project.lock import need_lock
from dinoscope.project.rounds import (
    MODEL,
    ROUNDS,
    begin_round,
    read_rounds,
    round_folder,
    use_round,
    write_round,
)
from dinoscope.types import ImageInput, Progress

#: LoRA that adds less than this to the validation score is not worth its weights.
LEAST_GAIN = 0.01
#: Share of the time for a stage with planes without annotations.
UNLABELLED_SHARE = 0.25


@dataclass(frozen=True)
class ImproveSummary:
    """What a round did.

    `before` and `after` are scores of what the user had and of the new model, on the same held-out
    annotations; mean IoU is that of the preview, ``iou_alone`` the new network's own. `kept` is
    ``"new"`` where it was better, else ``"old"``.
    """

    round: int
    output: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    better: bool
    kept: str
    tune: str
    validation: str
    seconds: float
    notes: tuple[str, ...] = ()
    stages: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def improve(
    project: str | Path,
    options: ImproveOptions | None = None,
    *,
    base: str | Path | None = None,
    images: Mapping[str, ImageInput] | None = None,
    clock: Callable[[], float] = time.monotonic,
    allow_download: bool = False,
) -> Generator[Progress, None, ImproveSummary]:
    """Train on everything that is annotated in a project.

    Parameters
    ----------
    project : path
        The project's folder; another window may have it open.
    options : ImproveOptions, optional
        Minutes, what is trained; ``resume`` goes on with a round that was interrupted.
    base : str or path, optional
        The model to begin with; the project's own current one when not given.
    images : mapping, optional
        Images by the id of their source, for those that have no file.
    clock : callable
        Seconds that count; one that stops makes pauses.

    Yields
    ------
    Progress
        ``loss``, ``loss_<task>``, ``lr``, ``images_per_s`` and ``val_<metric>`` in its values.

    Returns
    -------
    ImproveSummary

    Raises
    ------
    InputError
        Nothing is annotated that can be learned from.
    OutputError
        Another round of this project is running, or the disk is full.
    TrainingError
        The loss is not finite; the old model stays.
    """
    options = options or ImproveOptions()
    begun = time.perf_counter()
    with opened(project) as found:
        (found.folder / ROUNDS).mkdir(exist_ok=True)
        lock = need_lock(found.folder / ROUNDS / "lock", "this project is being improved")
        try:
            entry, options, base = _begin(found, options, base)
            notebook = Notebook(round_folder(found.folder, entry.number))
            work = yield from prepare(
                found, options, base, images, notebook, clock, allow_download=allow_download
            )
            compared = yield from compare(work)
            summary = yield from _run(found.folder, entry, work, compared, notebook)
        finally:
            lock.give()
    return replace(summary, seconds=time.perf_counter() - begun)


def first_model(project: Project) -> str:
    """The model that a round begins with: the current round's, the project's own, the default."""
    current = project.model()
    return str(current or project.settings.get("model") or "embedded")


def _begin(
    project: Project, options: ImproveOptions, base: str | Path | None
) -> tuple[Round, ImproveOptions, str]:
    """The round to work on: a new one, or the one that was interrupted, with its own options."""
    if options.resume:
        open_ones = [r for r in read_rounds(project.folder) if r.state == "training"]
        if not open_ones:
            raise InputError(
                f"no round of {project.name!r} was interrupted",
                expected="a round that has begun and is not done",
                hint="Begin a new one.",
            )
        entry = open_ones[-1]
        known = {n: v for n, v in entry.options.items() if n in options.__dataclass_fields__}
        mine = {"device": options.device, "threads": options.threads, "resume": True}
        return entry, ImproveOptions(**{**known, **mine}), entry.base
    name = str(base or first_model(project))
    return begin_round(project.folder, name, asdict(options)), options, name


def _run(
    folder: Path, entry: Round, work: Prepared, compared: Compared, notebook: Notebook
) -> Generator[Progress, None, ImproveSummary]:
    """All stages of all parts, the decision, and the round's record."""
    parts = work.holdout.parts
    crossed = work.holdout.crossed
    trainings = len(parts) + 1 if crossed else 1
    share = 1.0 / trainings
    results: list[list[StageResult]] = []
    for number, part in enumerate(parts):
        name = f"part{number + 1}-" if crossed else ""
        say = f"part {number + 1} of {len(parts)}, " if crossed else ""
        results.append((yield from _stages(work, part, notebook, name, say, number * share, share)))
    stage, scores, notes = _decided(work, results)
    made = [next(s for s in found if s.name.endswith(stage)) for found in results]
    scores = yield from in_preview(work, [s.path for s in made], scores)
    if crossed:
        whole = Part(work.material.planes, ())
        begin = 1 - share
        chosen = (yield from _stages(work, whole, notebook, "all-", "all, ", begin, share, stage))[
            -1
        ]
    else:
        chosen = made[0]
    tune = "heads" if stage == "heads" else work.choice.tune
    before = compared.before
    better = bool(parts[0].held) and compared.is_better(scores)
    notes = [*work.material.problems, *notes, *compared.notes, *_lost(work)]
    if not parts[0].held:
        notes.append("Nothing could be held out: look at both models and choose yourself.")
    elif not better:
        notes.append("The new model is not better on what was held out: the old one stays.")
    if "iou_alone" in scores:
        alone = scores["iou_alone"]
        notes.append(f"Without strokes, as in Predict, the new model's mean IoU is {alone:.3f}.")
    output = round_folder(folder, entry.number) / MODEL
    model = load_model(chosen.path, device="cpu")
    model.card = _card(model.card, entry, work, before, scores, notes)
    save_model(model, output, include_backbone=True)
    kept = "new" if better else "old"
    done = replace(
        entry,
        state="done",
        tune=tune,
        model=output.relative_to(folder).as_posix(),
        before=before,
        after=scores,
        better=better,
        kept=kept,
        validation=work.holdout.text,
        minutes=work.setting.options.minutes,
        notes=tuple(notes),
        history=_history(results),
    )
    write_round(folder, done)
    if better:
        use_round(folder, entry.number)
    notebook.clean(output)
    stages = {s.name: dict(s.scores) for found in results for s in found}
    return ImproveSummary(
        entry.number,
        str(output),
        before,
        scores,
        better,
        kept,
        tune,
        work.holdout.text,
        0.0,
        tuple(notes),
        stages,
    )


def _stages(
    work: Prepared,
    part: Part,
    notebook: Notebook,
    prefix: str,
    say: str,
    begin: float,
    share: float,
    until: str = "",
) -> Generator[Progress, None, list[StageResult]]:
    """Heads, LoRA, planes without annotations: those that are to be trained, one after another."""
    lora = work.choice.tune != "heads"
    more = work.setting.options.use_unlabelled
    plan: list[tuple[str, str, float]] = [("heads", "heads", HEADS_SHARE if lora else 1.0)]
    if lora:
        plan.append(("lora", work.choice.tune, 1 - HEADS_SHARE))
    if more:
        plan = [(n, t, s * (1 - UNLABELLED_SHARE)) for n, t, s in plan]
        plan.append(("unlabelled", work.choice.tune, UNLABELLED_SHARE))
    names = [name for name, _, _ in plan]
    plan = plan[: names.index(until) + 1] if until else plan
    whole = sum(own for _, _, own in plan)
    plan = [(name, tune, own / whole) for name, tune, own in plan]
    setting, seconds = work.setting, work.setting.options.minutes * 60
    validate = None
    if part.held:
        validate = HeldScores(
            [i for p in part.held for i in (p.image, *p.objects) if i.targets],
            setting.plan,
            setting.classes,
            device=setting.device,
            dtype=setting.autocast,
        )
    teacher: Teacher | None = None
    found: list[StageResult] = []
    at = begin
    for name, tune, own in plan:
        done = notebook.stage(prefix + name)
        if done is None:
            if found:
                model = load_model(found[-1].path, device=setting.device)
            else:
                model = load_model(work.base, device=setting.device)
                wanted = work.specs.get("semantic")
                new = wanted is not None and model.card.heads.get("semantic") != wanted
                add_heads(model, work.specs, setting.plan, setting.options.seed)
            if teacher is None:
                teacher = yield from _teacher(work, part)
                weights = list(teacher.weights)
                if weights:
                    setting = setting.with_loss("semantic", stroke_weights=weights)
                if weights and validate:
                    validate.weights = weights
                guides = Guides(teacher, setting)
            steps = setting.options.steps
            limit = None if steps is not None else seconds * share * own
            checkpoint = notebook.checkpoint(prefix + name)
            if not found and new and not (setting.options.resume and checkpoint.exists()):
                spent = yield from warm_head(
                    model, image_sets(part.training, guides.images), setting, limit
                )
                limit = None if limit is None else limit - spent
            extras = consistency(model, work, part) if name == "unlabelled" else []
            events = train_part(
                model,
                part.training,
                setting,
                tune,
                limit,
                steps=None if steps is None else max(1, round(steps * share * own)),
                guides=guides.images,
                validate=guides.while_judging(validate, setting),
                checkpoint=checkpoint,
                resume=setting.options.resume,
                extras=extras,
            )
            state = yield from told(events, f"{say}{name}", at, share * own, seconds)
            scores = yield from match_areas(model, teacher, setting, validate)
            done = notebook.finish(prefix + name, model, scores, state.step, state.history)
        found.append(done)
        at += share * own
    return found


def _teacher(work: Prepared, part: Part) -> Generator[Progress, None, Teacher]:
    """The fast loop, fitted on the strokes that train, as the teacher of what lies between them;
    nothing where there are no strokes."""
    if "semantic" not in work.specs:
        return Teacher()
    loop = fast_loop(work)
    try:
        if not (yield from loop.fit(part.training)):
            return Teacher()
        if not work.setting.options.guide:
            return Teacher(weights=tuple(loop.weights()))
        return (yield from fast_teacher(loop, part.training))
    finally:
        loop.close()


def _decided(
    work: Prepared, results: list[list[StageResult]]
) -> tuple[str, dict[str, float], list[str]]:
    """The stage that is kept, its scores (means over the parts), and why."""
    means = [mean_scores([r[number].scores for r in results]) for number in range(len(results[0]))]
    names = [s.name.rpartition("-")[2] for s in results[0]]
    notes = [work.choice.why]
    if "score" not in means[0]:  # nothing was held out
        return names[-1], means[-1], notes
    chosen, scores = names[0], means[0]
    for name, own in zip(names[1:], means[1:], strict=True):
        gain = own["score"] - scores["score"]
        if name == "lora" and gain < LEAST_GAIN:
            notes.append(
                f"LoRA adds {gain:+.3f} to heads only on what was held out, less than "
                f"{LEAST_GAIN:g}: heads only is kept."
            )
        elif name == "lora":
            chosen, scores = name, own
            notes.append(f"LoRA adds {gain:+.3f} to heads only on what was held out.")
        elif gain <= 0:
            notes.append(
                f"Planes without annotations change the score by {gain:+.3f}: they are not used."
            )
        else:
            chosen, scores = name, own
            notes.append(f"Planes without annotations add {gain:+.3f} on what was held out.")
    return chosen, scores, notes


def _history(results: list[list[StageResult]]) -> tuple[dict[str, float], ...]:
    """Validations of the first part, one stage after another; seconds go on."""
    found: list[dict[str, float]] = []
    offset = steps = 0.0
    for stage in results[0]:
        for line in stage.history:
            kept = {n: v for n, v in line.items() if n.startswith(("val_", "loss"))}
            kept |= {"step": steps + line["step"], "seconds": offset + line["seconds"]}
            found.append({n: round(float(v), 5) for n, v in kept.items()})
        if found:
            offset, steps = found[-1]["seconds"], found[-1]["step"]
    return tuple(found)


def _lost(work: Prepared) -> list[str]:
    """Tasks that the base does and the new model does not."""
    lost = [t for t in work.base_heads if t not in work.specs]
    if not lost:
        return []
    return [
        f"The new model does {', '.join(work.specs)}; for {', '.join(lost)} use {work.base_name!r}."
    ]


def _card(
    card: ModelCard,
    entry: Round,
    work: Prepared,
    before: Mapping[str, float],
    after: Mapping[str, float],
    notes: list[str],
) -> ModelCard:
    training: dict[str, Any] = {
        "base": Path(entry.base).name,
        "round": entry.number,
        "tune": work.choice.tune,
        "annotated_planes": len(work.material.planes),
        "validation": work.holdout.text,
        "before": dict(before),
        "seed": work.setting.options.seed,
    }
    return card.replace(
        name=f"{work.project_name}-round-{entry.number}",
        description=f"Improved on the annotations of {work.project_name!r}: "
        + ", ".join(work.specs)
        + ".",
        scores={n: round(v, 4) for n, v in after.items()},
        training=training,
        notes=tuple(notes),
        licence="",
        data=(),
    )


def resumable(folder: Path) -> int | None:
    """The number of the round that was interrupted, if one was."""
    open_ones = [r.number for r in read_rounds(folder) if r.state == "training"]
    return open_ones[-1] if open_ones else None
