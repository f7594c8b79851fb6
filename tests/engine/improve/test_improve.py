"""A round: it trains, compares honestly, keeps what is better, and goes on after a crash."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.engine.conftest import discs
from tests.engine.improve.conftest import QUICK, drive

from dinoscope.engine.improve import choose as choose_module
from dinoscope.engine.improve import prepare as prepare_module
from dinoscope.engine.improve.choose import choose
from dinoscope.engine.improve.compare import Compared
from dinoscope.engine.improve.improve import improve
from dinoscope.engine.improve.plan import plan
from dinoscope.engine.improve.stages import Notebook
from dinoscope.errors import InputError, OutputError
from dinoscope.models.catalog import inspect
from dinoscope.project import Project
from dinoscope.project.lock import Lock
from dinoscope.project.rounds import write_round

#: Trains until it is killed; checkpoints are written after each step.
TRAINER = """
import sys
import dinoscope.engine.fit as fit
fit.CHECKPOINT_S = 0.0
import dinoscope.engine.improve.warm as warm
warm.STEPS = 100  # of the head alone, before what is killed
from dinoscope.engine.improve.improve import improve
from tests.engine.improve.conftest import QUICK
from dataclasses import replace
for event in improve(sys.argv[1], replace(QUICK, tune="heads", steps=4000)):
    print(event.step, event.message, flush=True)
"""


def test_a_round_trains_compares_and_is_recorded(make_project: Callable[..., Project]) -> None:
    project = make_project(4)
    summary, events = drive(improve(project.folder, QUICK))
    assert summary.round == 1
    assert set(summary.stages) == {"heads", "lora"}
    assert 0 <= summary.after["iou"] <= 1
    assert 0 < summary.before["iou"] <= 1
    assert summary.better == (summary.after["iou"] > summary.before["iou"])
    assert 0 <= summary.after["iou_alone"] <= 1
    assert summary.after["score"] == summary.after["iou"]
    assert summary.kept == ("new" if summary.better else "old")
    (entry,) = project.rounds
    assert entry.state == "done"
    assert entry.before == summary.before
    assert project.current_round == (1 if summary.better else 0)
    card = inspect(summary.output)
    assert card.heads["semantic"].classes == ("background", "disc")
    assert card.scores == summary.after
    named = {p.name for p in (project.folder / "rounds" / "001").iterdir()}
    assert named == {"round.json", "model.dinoscope"}
    trained = [e for e in events if e.step == "train"]
    assert all(0 <= e.done <= e.total == 1000 for e in trained)
    assert {"loss", "loss_semantic", "lr", "images_per_s"} <= set(trained[0].values)
    assert "val_iou" in trained[-1].values
    assert sorted(e.done for e in trained) == [e.done for e in trained]


@pytest.mark.parametrize("gain", [0.005, 0.2])
def test_lora_that_adds_little_is_not_kept(
    make_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch, gain: float
) -> None:
    project = make_project(4)
    finish = Notebook.finish

    def told(self: Notebook, name: str, model: object, scores: object, *more: object) -> object:
        score = 0.5 + (gain if name == "lora" else 0.0)
        return finish(self, name, model, {"iou": score, "score": score}, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Notebook, "finish", told)
    summary, _ = drive(improve(project.folder, QUICK))
    small = gain < 0.01
    assert summary.tune == ("heads" if small else "lora-last:1")
    assert summary.after["iou_alone"] == (0.5 if small else 0.7)
    assert any(("heads only is kept" in note) is small for note in summary.notes if "LoRA" in note)


def test_a_model_that_is_not_better_does_not_take_over() -> None:
    old = Compared({"iou": 0.6, "ap50": 0.3})
    assert old.is_better({"iou": 0.65, "ap50": 0.3})
    assert not old.is_better({"iou": 0.6, "ap50": 0.3})
    assert not old.is_better({"iou": 0.5, "ap50": 0.35})
    assert old.is_better({"iou": 0.6, "ap50": 0.3, "f1_macro": 0.9})
    assert Compared({}).is_better({"f1_macro": 0.4})
    assert not Compared({}).is_better({})
    sure = Compared({"iou": 1.0, "log_loss": 0.2})
    assert sure.is_better({"iou": 1.0, "log_loss": 0.1})
    assert not sure.is_better({"iou": 1.0, "log_loss": 0.3})
    assert not sure.is_better({"iou": 0.99, "log_loss": 0.1})


def test_every_kind_of_annotation_trains_its_head(make_project: Callable[..., Project]) -> None:
    project = make_project(4)
    for seed, source in enumerate(project.sources):
        _, ids = discs(seed)
        project.record(source, (), "draw", np.flatnonzero(ids), ids[ids > 0], layer="objects")
        project.set_complete(source, (), True)
        project.set_object_classes(source, (), {1: 1, 2: 2, 3: 1, 4: 2, 5: 1, 6: 2})
        project.set_depth(source, (), (ids > 0) * np.float32(0.5) + np.float32(seed / 10))
    summary, events = drive(improve(project.folder, replace(QUICK, tune="heads", steps=8)))
    heads = inspect(summary.output).heads
    assert set(heads) == {"semantic", "instance", "depth", "classification"}
    assert {"iou", "ap50", "depth_gain", "f1_macro"} <= set(summary.after)
    assert {"iou", "ap50"} <= set(summary.before)
    losses = {n for e in events for n in e.values if n.startswith("loss_")}
    assert losses == {"loss_semantic", "loss_instance", "loss_depth", "loss_classification"}


def test_with_too_little_it_cross_validates_and_trains_on_all(
    make_project: Callable[..., Project],
) -> None:
    project = make_project(1, strokes=80)
    summary, events = drive(improve(project.folder, replace(QUICK, tune="heads")))
    assert "cross-validated" in summary.validation
    assert list(summary.stages) == ["part1-heads", "part2-heads", "part3-heads"]
    whole = [e.values for e in events if e.message.startswith("all, heads: step")]
    assert whole
    # Nothing judges it, though its guides are drawn anew by what it says meanwhile.
    assert not any(name.startswith("val_") for values in whole for name in values)
    assert inspect(summary.output).training["annotated_planes"] == 1


def test_planes_without_annotations_are_used_only_where_they_help(
    make_project: Callable[..., Project],
) -> None:
    project = make_project(4)
    summary, _ = drive(improve(project.folder, replace(QUICK, use_unlabelled=True)))
    assert "unlabelled" in summary.stages
    assert any(note.startswith("Planes without annotations") for note in summary.notes)


@pytest.mark.skipif(sys.platform == "win32", reason="processes are killed by signals here")
def test_killed_while_training_it_goes_on(make_project: Callable[..., Project]) -> None:
    project = make_project(4)
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAINER, str(project.folder)], stdout=subprocess.PIPE, text=True
    )
    assert trainer.stdout is not None
    step = 0
    for line in trainer.stdout:
        if line.startswith("train heads: step"):
            step = int(line.split()[-1])
        if step >= 4:
            break
    with pytest.raises(OutputError, match=f"being improved by process {trainer.pid}"):
        drive(improve(project.folder, QUICK))
    trainer.send_signal(signal.SIGKILL)
    trainer.wait()
    trainer.stdout.close()
    (entry,) = project.rounds
    assert entry.state == "training"
    # The checkpoint is there; the round keeps its own options, of which the steps are cut here.
    checkpoint = project.folder / "rounds" / "001" / "heads.ckpt"
    step = int(torch.load(checkpoint, weights_only=True)["state"]["step"])
    options = {**entry.options, "steps": step + 2}
    write_round(project.folder, replace(entry, options=options))
    summary, events = drive(improve(project.folder, replace(QUICK, resume=True)))
    assert summary.round == 1
    trained = [int(e.message.split()[-1]) for e in events if e.message.startswith("heads: step")]
    assert trained == [step + 1, step + 2]  # not from the beginning
    assert project.rounds[0].state == "done"
    assert len(project.rounds) == 1
    with pytest.raises(InputError, match=r"no round .* was interrupted"):
        drive(improve(project.folder, replace(QUICK, resume=True)))


def test_finished_stages_are_not_repeated(
    make_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(4)
    run = improve(project.folder, QUICK)
    for event in run:
        if event.message.startswith("lora: step"):
            break
    run.close()  # cancelled
    assert Lock(project.folder / "rounds" / "lock").take()
    _, events = drive(improve(project.folder, replace(QUICK, resume=True)))
    assert not any(e.message.startswith("heads: step") for e in events)
    assert any(e.message.startswith("lora: step") for e in events)


def test_a_second_round_begins_with_the_first_one(make_project: Callable[..., Project]) -> None:
    project = make_project(4)
    first, _ = drive(improve(project.folder, QUICK))
    project.use_round(1)
    second, _ = drive(improve(project.folder, replace(QUICK, seed=1)))
    assert second.round == 2
    assert project.rounds[1].base == first.output


def test_a_plan_says_what_would_be_done_and_writes_nothing(
    make_project: Callable[..., Project], base: Path
) -> None:
    project = make_project(4)
    found, _ = drive(plan(project.folder, replace(QUICK, steps=None, minutes=0.1)))
    assert found.enough
    assert found.choice == "lora-last:1"
    assert found.seconds_per_step > 0
    assert "held out" in found.validation
    assert found.pixels == {"background": found.pixels["background"], "disc": found.pixels["disc"]}
    assert sum(found.pixels.values()) == 1600
    assert project.rounds == []
    empty = make_project(1, strokes=0)
    nothing, _ = drive(plan(empty.folder, QUICK))
    assert not nothing.enough
    assert "nothing that can be learned from" in nothing.problems[0]


def test_a_plan_measures_every_way_without_what_training_imports(
    make_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose_module, "_MEASURED", {})
    monkeypatch.setattr(prepare_module, "imported", lambda: pytest.fail("seconds of imports"))
    drive(plan(make_project(4).folder, replace(QUICK, tune="auto", minutes=0.1)))
    seconds = {key[-1]: value for key, value in choose_module._MEASURED.items()}
    assert list(seconds) == ["heads", "lora-last:1", "lora-all"]
    assert all(value > 0 for value in seconds.values())


def test_the_machine_decides_what_is_trained() -> None:
    slow = {"heads": 1.0, "lora-last:4": 3.0, "lora-all": 9.0}
    fast = {name: seconds / 50 for name, seconds in slow.items()}
    assert choose(slow, 10, 12).tune == "heads"
    assert "too short" in choose(slow, 10, 12).why
    assert choose(slow, 60, 12).tune == "lora-last:4"
    assert choose(fast, 10, 12).tune == "lora-all"
    assert "in all 12 blocks" in choose(fast, 10, 12).why
    assert choose(slow, 10, 12, "lora-all").tune == "lora-all"
