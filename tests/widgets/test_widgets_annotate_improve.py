"""Improve with LoRA in the Annotate panel, with a worker whose training the test plays."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from napari.components import ViewerModel
from tests.widgets.annotating import HEIGHT, WIDTH, halves, paint, right, two_strokes
from tests.widgets.fake_annotator import FakeAnnotator

from dinoscope.errors import TrainingError
from dinoscope.project.rounds import MODEL, ROUNDS, begin_round, use_round, write_round
from dinoscope.widgets import _improve
from dinoscope.widgets._curve import _short
from dinoscope.widgets.annotate import AnnotatePanel


@pytest.fixture
def viewer(worker: FakeAnnotator) -> ViewerModel:
    viewer = ViewerModel()
    viewer.add_image(halves(HEIGHT, WIDTH), name="cells")
    return viewer


@pytest.fixture
def panel(
    viewer: Any, open_annotate: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> AnnotatePanel:
    """Annotated, and saved in a project."""
    monkeypatch.setattr(_improve, "_PLAN_MS", 10)
    panel = open_annotate()
    two_strokes(panel)
    qtbot.waitUntil(lambda: right(panel) and bool(panel.annotator.keeper.ids))
    return panel


def begin(panel: AnnotatePanel, qtbot: Any, worker: FakeAnnotator) -> Any:
    count = worker.count("improve")
    panel.runbar.run.click()
    qtbot.waitUntil(lambda: worker.count("improve") > count)
    return worker.last("improve")


def finish(panel: AnnotatePanel, job: Any, *, better: bool, number: int = 1) -> Path:
    """The end of a round, as the worker leaves it in the project."""
    folder = Path(panel.link.project.folder)
    entry = begin_round(folder, "embedded", {})
    assert entry.number == number
    model = folder / ROUNDS / f"{number:03d}" / MODEL
    model.touch()
    scores = {"before": {"iou": 0.71}, "after": {"iou": 0.78 if better else 0.7}}
    kept = "new" if better else "old"
    entry = dataclasses.replace(
        entry,
        state="done",
        model=str(model.relative_to(folder)),
        tune="lora-last:4",
        kept=kept,
        better=better,
        **scores,
    )
    write_round(folder, entry)
    if better:
        use_round(folder, number)
    job.done(
        round=number,
        output=str(model),
        better=better,
        kept=kept,
        tune="lora-last:4",
        notes=("LoRA adds 0.05 over the heads alone.",),
        **scores,
    )
    return model


def test_the_plan_says_what_why_how_long_and_what_is_held_out(
    panel: AnnotatePanel, qtbot: Any, worker: FakeAnnotator
) -> None:
    qtbot.waitUntil(lambda: "last 4 blocks" in panel.improve.plan.text())
    text = panel.improve.plan.text()
    assert "It fits into the time." in text
    assert "About 8 min." in text
    assert "2 of 6 annotated regions" in text
    panel.improve.minutes.value = 3
    qtbot.waitUntil(lambda: worker.last("improve_plan").payload["minutes"] == 3)


def test_a_better_model_takes_over_and_the_old_one_can_come_back(
    panel: AnnotatePanel, qtbot: Any, worker: FakeAnnotator
) -> None:
    job = begin(panel, qtbot, worker)
    assert job.payload["project"] == str(panel.link.project.folder)
    assert job.payload["model"] == "embedded"
    assert not job.payload["options"].resume
    assert set(job.images) == set(panel.annotator.keeper.ids.values())
    job.send("progress", step="train", done=1, total=9, message="", values={"before_iou": 0.71})
    for step in range(1, 9):
        values = {"loss": 1 / step} | ({"val_iou": 0.78} if step == 8 else {})
        message = f"step {step}"
        job.send("progress", step="train", done=step, total=9, message=message, values=values)
    qtbot.waitUntil(lambda: len(panel.improve.curve.score) == 2)
    assert len(panel.improve.curve.loss) == 8
    assert "0.710 at first, best 0.780" in panel.improve.numbers.text()
    model = finish(panel, job, better=True)
    qtbot.waitUntil(lambda: panel.annotator.session.model == str(model))
    assert "0.710 → 0.780" in panel.improve.result.text()
    assert "adds 0.05" in panel.improve.result.text()
    assert "0.710 → 0.780" in panel.runbar.status.text()
    qtbot.waitUntil(lambda: panel.improve.rounds.count() == 2)
    assert worker.last("annotate_open").payload["model"] == str(model)
    panel.improve.keep_old.click()
    qtbot.waitUntil(lambda: panel.annotator.session.model == "embedded")
    qtbot.waitUntil(lambda: panel.improve.use_new.isEnabled())
    panel.improve.use_new.click()
    qtbot.waitUntil(lambda: panel.annotator.session.model == str(model))


def test_a_worse_model_does_not_take_over(
    panel: AnnotatePanel, qtbot: Any, worker: FakeAnnotator
) -> None:
    job = begin(panel, qtbot, worker)
    model = finish(panel, job, better=False)
    qtbot.waitUntil(lambda: "old model stays" in panel.runbar.status.text())
    assert panel.annotator.session.model == "embedded"
    qtbot.waitUntil(lambda: panel.improve.use_new.isEnabled())
    panel.improve.use_new.click()
    qtbot.waitUntil(lambda: panel.annotator.session.model == str(model))


def test_painting_and_previews_go_on_while_it_trains(
    panel: AnnotatePanel, qtbot: Any, worker: FakeAnnotator
) -> None:
    job = begin(panel, qtbot, worker)
    sent = worker.count("annotate_preview")
    panel.image.scribbles.paint((30, 10), 1)
    qtbot.waitUntil(lambda: worker.count("annotate_preview") > sent)
    panel.improve.pause.click()
    assert worker.last("improve_pause").payload["paused"] is True
    assert panel.improve.pause.text() == "Go on"
    panel.improve.pause.click()
    assert worker.last("improve_pause").payload["paused"] is False
    panel.runbar.cancel.click()
    qtbot.waitUntil(lambda: not panel.runs.busy)
    assert job.cancel_asked
    assert "the one before" in panel.runbar.status.text()


def test_a_failure_is_told_and_the_model_stays(
    panel: AnnotatePanel, qtbot: Any, worker: FakeAnnotator
) -> None:
    job = begin(panel, qtbot, worker)
    job.send("error", error=TrainingError("the loss is no number"))
    qtbot.waitUntil(lambda: "no number" in panel.runbar.status.text())
    assert panel.annotator.session.model == "embedded"
    assert panel.runbar.run.isEnabled()


def test_an_interrupted_round_is_gone_on_with_after_reopening(
    panel: AnnotatePanel, qtbot: Any, worker: FakeAnnotator
) -> None:
    begin(panel, qtbot, worker)
    folder = Path(panel.link.project.folder)
    begin_round(folder, "embedded", {})
    panel.teardown()
    other = AnnotatePanel(ViewerModel())
    qtbot.addWidget(other, before_close_func=AnnotatePanel.teardown)
    other.link.open(folder)
    qtbot.waitUntil(lambda: other.runbar.run.text() == "Go on improving")
    other.runbar.run.click()
    qtbot.waitUntil(lambda: worker.last("improve").payload["options"].resume)


@pytest.mark.parametrize("own", [False, True])
def test_a_head_that_has_its_say_is_told_when_classes_change(
    own: bool, viewer: Any, open_annotate: Any, qtbot: Any, worker: FakeAnnotator
) -> None:
    worker.own_classes = own
    panel = open_annotate()
    two_strokes(panel)
    qtbot.waitUntil(lambda: right(panel))
    opened = worker.count("annotate_open")
    before = worker.last("annotate_open").payload["classes"]
    assert before == tuple(c.name for c in panel.annotator.classes)
    panel.annotator.classes.rename(1, "nuclei")
    shown = worker.count("annotate_preview")
    paint(panel, 2, slice(30, 35), slice(45, 55))
    qtbot.waitUntil(lambda: worker.count("annotate_preview") > shown)
    qtbot.waitUntil(lambda: panel.annotator.session.idle)
    assert worker.count("annotate_open") == opened + own
    if own:
        assert worker.last("annotate_open").payload["classes"] == (before[0], "nuclei", *before[2:])


def test_painting_comes_before_the_plan(
    panel: AnnotatePanel, qtbot: Any, worker: FakeAnnotator
) -> None:
    qtbot.waitUntil(lambda: worker.count("improve_plan") > 0 and panel.annotator.session.idle)
    timer = panel.improver._plan_timer
    timer.setInterval(6000)
    panel.improve.minutes.value = 7
    # Saving may start the timer once more; then it runs, and is off by far less than this.
    qtbot.waitUntil(lambda: 0 < timer.remainingTime() < 4500, timeout=60_000)
    paint(panel, 2, slice(20, 25), slice(45, 55))
    qtbot.waitUntil(lambda: timer.remainingTime() > 5000, timeout=60_000)


def test_a_plan_gives_way_to_strokes_and_is_made_again(
    panel: AnnotatePanel, qtbot: Any, worker: FakeAnnotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    qtbot.waitUntil(lambda: worker.count("improve_plan") > 0 and panel.annotator.session.idle)
    monkeypatch.setattr(worker, "play_improve_plan", lambda job: None)  # it takes its time
    count = worker.count("improve_plan")
    panel.improve.minutes.value = 7
    qtbot.waitUntil(lambda: worker.count("improve_plan") == count + 1)
    slow = worker.last("improve_plan")
    paint(panel, 2, slice(20, 25), slice(45, 55))
    qtbot.waitUntil(lambda: slow.cancel_asked)
    qtbot.waitUntil(lambda: worker.count("improve_plan") == count + 2)
    assert worker.last("improve_plan").payload["minutes"] == 7


def test_a_plan_waits_until_the_preview_is_there(
    panel: AnnotatePanel, qtbot: Any, worker: FakeAnnotator, monkeypatch: pytest.MonkeyPatch
) -> None:
    qtbot.waitUntil(lambda: worker.count("improve_plan") > 0 and panel.annotator.session.idle)
    held: list[Any] = []
    play = worker.play_annotate_preview
    monkeypatch.setattr(worker, "play_annotate_preview", held.append)
    paint(panel, 2, slice(20, 25), slice(45, 55))
    qtbot.waitUntil(lambda: len(held) == 1)
    count = worker.count("improve_plan")
    panel.improve.minutes.value = 7
    qtbot.wait(200)
    assert worker.count("improve_plan") == count
    play(held[0])
    qtbot.waitUntil(lambda: worker.count("improve_plan") == count + 1)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.94123, "0.941"), (0.00462, "0.005"), (3.41, "3.41"), (1234.4, "1234"), (2e-6, "2e-06")],
)
def test_numbers_beside_a_curve_fit_its_margin(value: float, text: str) -> None:
    assert _short(value) == text
