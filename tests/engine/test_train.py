from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dinoscope.arrays.files import write_image
from dinoscope.config import PredictOptions, TrainOptions
from dinoscope.engine.dataset import TaskSource, sources_from_folders
from dinoscope.engine.predict import run_prediction
from dinoscope.engine.train import TrainSummary, train
from dinoscope.engine.validate import Validator
from dinoscope.errors import InputError, TrainingError
from dinoscope.models.checkpoint import load_model, save_model
from dinoscope.models.model import Model
from dinoscope.types import ImageInput, Progress

Folders = tuple[Path, Path]
QUICK = TrainOptions(
    tune="heads", epochs=6, batch_size=4, crop_px=112, threads=1, learning_rate=3e-3
)


def _run(
    sources: list[TaskSource], options: TrainOptions, output: Path, **more: object
) -> tuple[list[Progress], TrainSummary]:
    events = train(sources, options, base="tiny-test", output=output, **more)  # type: ignore[arg-type]
    seen = []
    while True:
        try:
            seen.append(next(events))
        except StopIteration as stop:
            return seen, stop.value


def test_training_learns_discs_and_the_file_predicts(
    disc_folders: Folders, disc_image: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    source = sources_from_folders(*disc_folders, "instance")
    options = TrainOptions(
        tune="lora-last:2", epochs=30, batch_size=4, crop_px=112, threads=1, learning_rate=5e-3
    )
    output = tmp_path / "discs.dinoscope"
    events, summary = _run([source], options, output)
    losses = [e.values["loss"] for e in events if "loss" in e.values]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert summary.scores["ap50"] > 0.3
    assert (summary.training_images, summary.validation_images) == (5, 1)
    model = load_model(output)
    assert model.card.diameter_px == 28
    assert model.card.scores["ap50"] == pytest.approx(summary.scores["ap50"], abs=1e-3)
    image, ids = disc_image
    arrays, *_ = run_prediction(
        ImageInput(image, "YX"), model, PredictOptions(("instance",), diameter_px=18, threads=1)
    )
    overlap = ((arrays["instance"] > 0) & (ids > 0)).sum() / (
        (arrays["instance"] > 0) | (ids > 0)
    ).sum()
    assert overlap > 0.6
    assert not output.with_suffix(".ckpt").exists()


def test_several_tasks_train_together(tmp_path: Path, disc_folders: Folders) -> None:
    images, labels = disc_folders
    depths, kinds = tmp_path / "depth", tmp_path / "kinds"
    depths.mkdir()
    kinds.mkdir()
    for number, path in enumerate(sorted(images.iterdir())):
        rng = np.random.default_rng(number)
        depth = np.cumsum(rng.random((120, 130)), 0).astype(np.float32)
        depth[:5] = np.nan
        write_image(depths / path.name, depth, "YX", {})
        kind = rng.integers(0, 3, (120, 130)).astype(np.uint8)
        kind[:, :9] = 255
        write_image(kinds / path.name, kind, "YX", {})
    (tmp_path / "classes.csv").write_text(
        "image,class\n" + "".join(f"d{i}.tif,{'ab'[i % 2]}\n" for i in range(6))
    )
    sources = [
        sources_from_folders(images, labels, "instance"),
        sources_from_folders(images, kinds, "semantic"),
        sources_from_folders(images, depths, "depth"),
        sources_from_folders(images, tmp_path / "classes.csv", "classification"),
    ]
    events, summary = _run(sources, QUICK, tmp_path / "all.dinoscope")
    named = {n for e in events for n in e.values if n.startswith("loss_")}
    assert named == {"loss_instance", "loss_semantic", "loss_depth", "loss_classification"}
    assert summary.tasks == ("instance", "semantic", "depth", "classification")
    assert {"ap50", "iou", "rmse", "f1_macro"} <= set(summary.scores)
    model = load_model(tmp_path / "all.dinoscope")
    assert model.card.heads["depth"].high > 50
    assert model.card.heads["classification"].classes == ("a", "b")
    assert summary.training_images == 5  # an image named by four sources is one image


def test_a_frozen_backbone_stays_bit_identical(disc_folders: Folders, tmp_path: Path) -> None:
    before = load_model("tiny-test").backbone.state_dict()
    for tune in ("heads", "lora-all"):
        options = TrainOptions(tune=tune, epochs=1, batch_size=4, crop_px=112, threads=1)
        _run([sources_from_folders(*disc_folders, "instance")], options, tmp_path / "m.dinoscope")
        after = load_model(tmp_path / "m.dinoscope", merge=False).backbone.state_dict()
        for name, value in before.items():
            kept = (
                name
                if name in after
                else name.replace(".weight", ".base_layer.weight").replace(
                    ".bias", ".base_layer.bias"
                )
            )
            assert np.array_equal(after[kept].cpu().numpy(), value.numpy()), (tune, name)


def test_a_classifier_from_a_dense_model_leaves_the_dense_part_behind(
    disc_folders: Folders, full_model: Model, tmp_path: Path
) -> None:
    base = tmp_path / "base.dinoscope"
    save_model(full_model, base, include_backbone=True)
    table = tmp_path / "classes.csv"
    table.write_text("image,class\n" + "".join(f"d{i}.tif,{'ab'[i % 2]}\n" for i in range(6)))
    source = sources_from_folders(disc_folders[0], table, "classification")
    output = tmp_path / "classes.dinoscope"
    list(train([source], QUICK, base=base, output=output))
    model = load_model(output)
    assert set(model.card.heads) == {"classification"}
    assert model.decoder is None
    assert model.card.normalization["mode"] == "fixed"


def test_a_training_that_makes_it_worse_keeps_the_base(
    disc_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sources_from_folders(*disc_folders, "instance")
    base = tmp_path / "base.dinoscope"
    _run([source], QUICK, base)
    scores = iter([0.9, 0.1, 0.2, 0.3])
    monkeypatch.setattr(Validator, "__call__", lambda self, model: {"score": next(scores)})
    output = tmp_path / "worse.dinoscope"
    options = TrainOptions(tune="heads", epochs=1, batch_size=4, crop_px=112, threads=1)
    events = train([source], options, base=base, output=output)
    while True:
        try:
            next(events)
        except StopIteration as stop:
            summary = stop.value
            break
    assert any("base weights are kept" in n for n in summary.notes)
    assert summary.scores == {"score": 0.9}
    old, new = load_model(base).state_dict(), load_model(output).state_dict()
    assert all(np.array_equal(old[n].numpy(), new[n].numpy()) for n in old)


@pytest.mark.parametrize(
    ("truth", "task", "message"),
    [
        (np.zeros((120, 130), np.uint16), "instance", "no instance label has an object"),
        (np.full((120, 130), 3, np.uint8), "semantic", r"only the values \[3\]"),
        (np.full((120, 130), np.nan, np.float32), "depth", "no finite value"),
        (np.full((120, 130), 2.0, np.float32), "depth", "everywhere"),
        (np.full((120, 130), 0.5, np.float32), "instance", "fractional"),
        (np.zeros((120, 131), np.uint16), "instance", "have shape"),
        (np.full((120, 130), 300, np.uint16), "semantic", "range from 300 to 300"),
    ],
)
def test_truths_that_cannot_be_used_are_named(
    truth: np.ndarray, task: str, message: str, tmp_path: Path
) -> None:
    image = ImageInput(np.zeros((120, 130), np.uint8), "YX", name="img")
    source = TaskSource(task, [image], [ImageInput(truth, "YX", name="lab")])
    with pytest.raises(InputError, match=message):
        _run([source], QUICK, tmp_path / "m.dinoscope")
    assert not (tmp_path / "m.dinoscope").exists()


def test_stacks_without_axes_in_their_labels_train_plane_by_plane(tmp_path: Path) -> None:
    import tifffile

    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    ids = np.zeros((4, 60, 70), np.uint16)
    ids[:, 20:40, 20:40] = 1
    pixels = (ids * 100 + rng.integers(0, 30, ids.shape)).astype(np.uint8)
    write_image(tmp_path / "images" / "s.ome.tif", pixels, "ZYX", {})
    tifffile.imwrite(tmp_path / "labels" / "s.tif", ids, photometric="minisblack")
    source = sources_from_folders(tmp_path / "images", tmp_path / "labels", "instance")
    options = TrainOptions(tune="heads", epochs=1, batch_size=2, crop_px=112, threads=1)
    _, summary = _run([source], options, tmp_path / "s.dinoscope")
    assert summary.training_images == 4
    assert summary.validation_images == 0  # planes of one stack never stand on both sides


def test_a_table_that_names_unknown_images_is_refused(
    disc_folders: Folders, tmp_path: Path
) -> None:
    table = tmp_path / "c.csv"
    table.write_text("image,class\nd0.tif,a\nghost.tif,b\n")
    with pytest.raises(InputError, match=r"1 unknown images, first 'ghost\.tif'"):
        sources_from_folders(disc_folders[0], table, "classification")


def test_a_loss_that_is_not_finite_stops_and_names_the_images(
    disc_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dinoscope.tasks.instance import Instance

    monkeypatch.setattr(
        Instance, "loss", lambda self, raw, target, settings: raw.sum() * float("nan")
    )
    with pytest.raises(TrainingError, match=r"became nan at step 0, in a batch of .*d\d\.tif"):
        _run([sources_from_folders(*disc_folders, "instance")], QUICK, tmp_path / "m.dinoscope")


def test_a_killed_run_goes_on_where_it_was(disc_folders: Folders, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "import dinoscope.engine.fit as fit\n"
        "fit.CHECKPOINT_S = 0.0\n"
        "from dinoscope.config import TrainOptions\n"
        "from dinoscope.engine.dataset import sources_from_folders\n"
        "from dinoscope.engine.train import train\n"
        "source = sources_from_folders(sys.argv[1], sys.argv[2], 'instance')\n"
        "options = TrainOptions(tune='heads', epochs=400, batch_size=4, crop_px=112, threads=1)\n"
        "for event in train([source], options, base='tiny-test', output=sys.argv[3]):\n"
        "    print(event.message, flush=True)\n"
    )
    output = tmp_path / "m.dinoscope"
    process = subprocess.Popen(
        [sys.executable, str(script), *map(str, disc_folders), str(output)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    deadline = time.monotonic() + 120
    for line in process.stdout:
        if line.startswith("step") and int(line.split()[1]) >= 6:
            break
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.wait()
    checkpoint = output.with_suffix(".ckpt")
    assert checkpoint.exists()
    assert not output.exists()
    options = TrainOptions(
        tune="heads", epochs=6, batch_size=4, crop_px=112, threads=1, resume=True
    )
    events, summary = _run([sources_from_folders(*disc_folders, "instance")], options, output)
    steps = [int(e.message.split()[1]) for e in events if e.message.startswith("step")]
    assert not steps or steps[0] >= 6
    assert output.exists()
    assert summary.steps >= 6


def test_one_image_trains_and_says_that_nothing_was_held_out(
    disc_image: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    image, ids = disc_image
    source = TaskSource("instance", [ImageInput(image, "YX")], [ImageInput(ids, "YX")])
    options = TrainOptions(tune="heads", epochs=1, batch_size=2, crop_px=112, threads=1)
    _, summary = _run([source], options, tmp_path / "one.dinoscope")
    assert summary.validation_images == 0
    assert any("held out" in n for n in summary.notes)
    assert (tmp_path / "one.dinoscope").exists()
