"""The deep loop as the window sees it: plan, training in the background, rounds, the way back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, QTimer, Signal

from dinoscope.errors import DinoscopeError, InputError
from dinoscope.widgets._annotator import Annotator
from dinoscope.widgets._client import JobHandle
from dinoscope.widgets._run import Outcome, progress_of

#: The plan is made again when the user has not painted for so long.
_PLAN_MS = 4000


class Improver(QObject):
    """Runs rounds of improvement on the project.

    Parameters
    ----------
    annotator : Annotator
        Has project, strokes and session.
    """

    #: What would be trained: the data of ``improve_plan``, or ``None`` while it is not known.
    planned = Signal(object)
    #: A plan is being made: that takes some seconds.
    planning = Signal()
    started = Signal()
    progress = Signal(object)
    paused_changed = Signal(bool)
    #: A round ended with these data (see the worker's job ``improve``).
    done = Signal(object)
    ended = Signal(object)
    #: The rounds of the project and the number of the one in use.
    rounds = Signal(object, int)
    #: This model is in use from now on.
    model_changed = Signal(str)

    def __init__(self, annotator: Annotator, parent: QObject) -> None:
        super().__init__(parent)
        self._annotator = annotator
        self._controller = annotator.controller
        self._job: JobHandle | None = None
        self._plan_job: JobHandle | None = None
        self.paused = False
        self.minutes = 10.0
        self._planned_for: tuple[Any, ...] = ()
        self.known: Sequence[Any] = ()
        self.current_round = 0
        self._plan_timer = QTimer(self)
        self._plan_timer.setSingleShot(True)
        self._plan_timer.setInterval(_PLAN_MS)
        self._plan_timer.timeout.connect(self._ask_plan)
        annotator.told.connect(self._on_told)
        annotator.strokes_changed.connect(self._on_strokes)

    @property
    def running(self) -> bool:
        return self._job is not None and self._job.running

    @property
    def interrupted(self) -> bool:
        """Whether the last round was begun and not finished."""
        return bool(self.known) and self.known[-1].state == "training" and not self.running

    def close(self) -> None:
        """The panel goes away; the round can be gone on with."""
        self._plan_timer.stop()
        if self._job is not None and self._job.running:
            self._job.silence()
            self._job.cancel()
        if self._plan_job is not None and self._plan_job.running:
            self._plan_job.silence()
            self._plan_job.withdraw()
        self._job = self._plan_job = None

    # -- plan ----------------------------------------------------------------------------------

    def plan_soon(self) -> None:
        """Something changed that the plan depends on."""
        if not self.running and self._plan_basis() != self._planned_for:
            self._plan_timer.start()

    def _on_strokes(self) -> None:
        """Somebody paints: a plan is made in the next pause, for its steps delay previews."""
        if self._plan_job is not None and self._plan_job.running:
            self._plan_job.withdraw()
            self._planned_for = ()
            self._plan_timer.start()
        elif self._plan_timer.isActive():
            self._plan_timer.start()

    def _plan_basis(self) -> tuple[Any, ...]:
        """What a plan depends on: it takes seconds, and a stroke more hardly changes it."""
        annotator = self._annotator
        painted = int(annotator.keeper.book.counts()[1:].sum())
        project = annotator.keeper.project
        return (
            None if project is None else str(project.folder),
            annotator.session.model,
            self.minutes,
            annotator.classes_painted,
            len(annotator.keeper.book.planes()),
            painted.bit_length(),
        )

    def _ask_plan(self) -> None:
        project = self._annotator.keeper.project
        if project is None or self.running or self._annotator.classes_painted < 2:
            self.planned.emit(None)
            return
        busy = self._plan_job is not None and self._plan_job.running
        if busy or not self._annotator.session.idle:
            self._plan_timer.start()
            return
        payload = {
            "project": str(project.folder),
            "model": self._annotator.session.model,
            "minutes": self.minutes,
        }
        self._planned_for = self._plan_basis()
        self.planning.emit()
        job = self._plan_job = self._controller.submit("improve_plan", payload, self._images())
        job.done.connect(self.planned)
        job.failed.connect(self._on_plan_failed)

    def _on_plan_failed(self, error: DinoscopeError) -> None:
        self.planned.emit({"problems": (str(error),), "enough": False})

    # -- a round -------------------------------------------------------------------------------

    def start(self, *, resume: bool = False) -> None:
        """Train in the background.

        Raises
        ------
        DinoscopeError
            There is nothing to learn from, or nowhere to keep it.
        """
        from dinoscope.config import ImproveOptions

        annotator = self._annotator
        project = annotator.keeper.project
        if self.running:
            return
        if project is None or annotator.classes_painted < 2:
            raise InputError(
                "there is too little to learn from", expected="strokes of at least two classes"
            )
        if project.read_only:
            raise InputError(
                f"project {project.name!r} is open to be looked at only",
                hint="Save it under another name first.",
            )
        annotator.flush()
        images = self._images()
        payload = {
            "project": str(project.folder),
            "model": annotator.session.model,
            "options": ImproveOptions(minutes=self.minutes, resume=resume),
            "allow_download": annotator.session.download,
        }
        self._plan_timer.stop()
        # The strokes have to be on the disk: the keeper tells when they are.
        self.paused = False
        self._start = (payload, images)
        annotator.keeper.do("flushed", _flush)
        self.started.emit()

    def _images(self) -> dict[str, Any]:
        """The images that are open, by their names in the project."""
        ids = self._annotator.keeper.ids
        images = self._annotator.images
        return {ids[key]: one.source.image for key, one in images.items() if key in ids}

    def _submit(self) -> None:
        payload, images = self._start
        job = self._job = self._controller.submit("improve", payload, images)
        job.progress.connect(self._on_progress)
        job.done.connect(self._on_done)
        job.failed.connect(self._on_failed)
        job.cancelled.connect(self._on_cancelled)

    def pause(self, paused: bool) -> None:
        """Let it rest, or go on."""
        project = self._annotator.keeper.project
        if self.running and project is not None and paused != self.paused:
            self.paused = paused
            payload = {"project": str(project.folder), "paused": paused}
            self._controller.submit("improve_pause", payload)
            self.paused_changed.emit(paused)

    def cancel(self) -> None:
        """Stop within a second; the model in use stays."""
        if self._job is not None and self._job.running:
            self._job.cancel()

    def _on_progress(self, data: Any) -> None:
        self.progress.emit(progress_of(data))

    def _on_done(self, data: Mapping[str, Any]) -> None:
        if data.get("kept") == "new" and data.get("output"):
            self._use_model(str(data["output"]))
        self.done.emit(data)
        self.ended.emit(Outcome("done", round_text(data)))
        self.ask_rounds()

    def _on_failed(self, error: DinoscopeError) -> None:
        self.ended.emit(Outcome("error", str(error)))
        self.ask_rounds()

    def _on_cancelled(self) -> None:
        self.ended.emit(Outcome("cancelled", "Stopped. The model in use is the one before."))
        self.ask_rounds()

    # -- rounds --------------------------------------------------------------------------------

    def ask_rounds(self) -> None:
        """Read the history; `rounds` follows."""
        self._annotator.keeper.do("rounds", _rounds)

    def use_round(self, number: int) -> None:
        """Return to a round; 0 = the model that the project began with."""

        def work(project: Any) -> str:
            project.use_round(number)
            path = project.model()
            if path is not None:
                return str(path)
            known = project.rounds
            return str(known[0].base) if known else ""

        self._annotator.keeper.do("round used", work)

    def _use_model(self, model: str) -> None:
        if not model:
            return
        if Path(model).exists():
            self._controller.choose_model(model)
        self.model_changed.emit(model)

    def _on_told(self, event: str, data: Any) -> None:
        if event in ("saved", "linked"):
            self.plan_soon()
        elif event == "opened":
            self.planned.emit(None)
            self.ask_rounds()
        elif event == "flushed":
            self._submit()
        elif event == "rounds" and data["value"] is not None:
            self.known, self.current_round = data["value"]
            self.rounds.emit(self.known, self.current_round)
        elif event == "round used":
            self._use_model(data["value"])
            self.ask_rounds()


def _flush(project: Any) -> None:
    if project is not None and not project.read_only:
        project.flush()


def _rounds(project: Any) -> Any:
    return None if project is None else (project.rounds, project.current_round)


def plan_text(plan: Mapping[str, Any]) -> tuple[str, str]:
    """What will be trained, why, how long, what is held out; and the tone of the line."""
    problems = [str(p) for p in plan.get("problems") or ()]
    if plan.get("enough") is False and not plan.get("choice"):
        return " ".join(problems) or "Too little is annotated to learn from.", "warning"
    parts = [f"Will train {tune_text(str(plan.get('choice', '')))}."]
    if plan.get("why"):
        parts.append(_sentence(str(plan["why"])))
    minutes = plan.get("estimated_minutes")
    if minutes:
        parts.append(f"About {minutes:.0f} min." if minutes >= 1.5 else "About a minute.")
    if plan.get("validation"):
        parts.append(f"Judged on {str(plan['validation']).rstrip('.')}.")
    return " ".join([*parts, *(_sentence(p) for p in problems)]), "warning" if problems else ""


def tune_text(tune: str) -> str:
    """What a way of training changes, in words.

    Examples
    --------
    >>> tune_text("lora-last:4"), tune_text("heads")
    ('LoRA in the last 4 blocks', 'the heads only')
    """
    kind, _, count = tune.partition(":")
    if kind == "lora-last":
        return f"LoRA in the last {count} blocks" if count != "1" else "LoRA in the last block"
    return {"heads": "the heads only", "lora-all": "LoRA in all blocks"}.get(kind, tune)


def main_score(scores: Mapping[str, float]) -> str:
    """The name of the score that is told of a round."""
    for name in ("score", "iou", "miou", "ap50", "depth_gain", "f1_macro"):
        if name in scores:
            return name
    return next(iter(scores), "")


def score_text(name: str) -> str:
    """A score's name in words."""
    words = {
        "iou": "mean IoU",
        "miou": "mean IoU",
        "ap50": "AP50",
        "f1_macro": "macro F1",
        "depth_gain": "depth gain",
        "log_loss": "log loss (less is better)",
    }
    return words.get(name, name)


def round_text(data: Mapping[str, Any]) -> str:
    """How a round ended, in one line."""
    before, after = dict(data.get("before") or {}), dict(data.get("after") or {})
    name = main_score(after) or main_score(before)
    numbers = ""
    if name in before and name in after:
        numbers = (
            f" {score_text(name).capitalize() if name == 'score' else score_text(name)} "
            f"{before[name]:.3f} → {after[name]:.3f} on annotations kept apart."
        )
    kept = "The new model is in use." if data.get("kept") == "new" else "The old model stays."
    return f"Round {data.get('round', '')}:{numbers} {kept}".replace("  ", " ")


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:].rstrip(".") + "." if text else ""
