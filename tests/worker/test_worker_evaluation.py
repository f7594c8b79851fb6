from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from tests.peers.make_peer_values import seeded_pair

from dinoscope.arrays.faults import FOUND, MISSED
from dinoscope.arrays.metrics import average_precision
from dinoscope.errors import InputError, WorkerError
from dinoscope.types import ImageInput, Progress
from dinoscope.worker import evaluation
from dinoscope.worker.client import WorkerClient
from dinoscope.worker.jobs import JobContext, Tools
from dinoscope.worker.protocol import Event


@pytest.fixture
def context_for(tmp_path: Path) -> Callable[..., JobContext]:
    tools = Tools(tmp_path / "worker", 1)

    def make(payload: Mapping[str, Any], number: int = 1, **images: ImageInput) -> JobContext:
        nothing = lambda *_: None  # noqa: E731
        return JobContext(number, payload, images, tools, nothing, nothing)

    return make


def run(context: JobContext) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
    """The data of the plane events, and of the last one."""
    steps = evaluation.evaluate(context)
    assert isinstance(steps, Generator)
    planes = []
    while True:
        try:
            step = next(steps)
        except StopIteration as stop:
            return planes, stop.value
        assert isinstance(step, (Progress, Event))
        if isinstance(step, Event):
            planes.append(step.data)


def stacks(count: int = 3) -> tuple[ImageInput, ImageInput]:
    """Truth and prediction, (count, 96, 96)."""
    pairs = [seeded_pair(seed) for seed in range(count)]
    truth, pred = (np.stack([pair[i] for pair in pairs]) for i in (0, 1))
    return ImageInput(truth, "ZYX", name="truth"), ImageInput(pred, "ZYX", name="guess")


def test_layers_are_scored_plane_by_plane_with_their_error_maps(context_for: Any) -> None:
    truth, pred = stacks()
    planes, done = run(context_for({"task": "instance"}, truth=truth, prediction=pred))
    assert [p["index"] for p in planes] == [(0,), (1,), (2,)]
    assert all(p["faults"].shape == (96, 96) for p in planes)
    one = done["evaluations"]["guess"]
    expected = [
        average_precision(t, p, [0.5])[0] for t, p in zip(truth.data, pred.data, strict=True)
    ]
    assert one["ap50"] == pytest.approx(np.mean(expected))
    assert one["ap50_low"] < one["ap50"] < one["ap50_high"]
    assert {"fault", "truth_id", "y", "x", "plane"} <= set(done["objects"])
    assert {c["title"] for c in done["charts"]} >= {"AP over IoU thresholds", "Counts"}
    assert done["comparison"] is None


def test_two_predictions_are_compared(context_for: Any) -> None:
    truth, pred = stacks()
    best = ImageInput(truth.data, "ZYX", name="guess")
    planes, done = run(context_for({"task": "instance"}, truth=truth, prediction=pred, other=best))
    assert [p["which"] for p in planes] == ["prediction"] * 3 + ["other"] * 3
    assert set(done["evaluations"]) == {"guess", "guess (2)"}
    assert done["comparison"]["figures"]["ap50"]["difference"] > 0
    assert {int(c) for c in np.unique(planes[-1]["faults"])} == {0, FOUND}


def test_scores_of_objects_give_coco_figures(context_for: Any) -> None:
    truth, pred = stacks(1)
    scores = {int(label): 0.5 for label in np.unique(pred.data)}
    payload = {"task": "instance", "scores": {"prediction": scores}}
    _, done = run(context_for(payload, truth=truth, prediction=pred))
    assert 0 < done["evaluations"]["guess"]["coco_ap50"] < 1
    _, done = run(context_for({"task": "instance"}, truth=truth, prediction=pred))
    assert "coco_ap50" not in done["evaluations"]["guess"]


def test_classes_of_objects_follow_the_objects_not_the_ids(context_for: Any) -> None:
    truth = np.zeros((8, 30), np.int32)
    truth[2:6, 2:8], truth[2:6, 12:18], truth[2:6, 22:28] = 1, 2, 3
    pred = np.zeros_like(truth)
    pred[2:6, 2:8], pred[2:6, 12:18] = 7, 9
    classes = {
        "truth": {1: "round", 2: "long", 3: "long"},
        "prediction": {7: "round", 9: "round"},
    }
    _, done = run(
        context_for(
            {"task": "classification", "classes": classes},
            truth=ImageInput(truth, "YX", name="t"),
            prediction=ImageInput(pred, "YX", name="p"),
        )
    )
    one = done["evaluations"]["p"]
    assert one["accuracy"] == pytest.approx(1 / 3)
    assert [row["predicted"] for row in one["per_image"]] == ["round", "round", "(not found)"]
    classes["truth"] = {}
    with pytest.raises(InputError, match="no object of the truth has a class"):
        run(
            context_for(
                {"task": "classification", "classes": classes},
                truth=ImageInput(truth, "YX"),
                prediction=ImageInput(pred, "YX"),
            )
        )


@pytest.mark.parametrize("where", ["truth", "prediction"])
def test_floating_point_labels_are_named(context_for: Any, where: str) -> None:
    truth, pred = stacks(1)
    images = {"truth": truth, "prediction": pred}
    images[where] = ImageInput(images[where].data.astype(np.float32), "ZYX", name="half")
    with pytest.raises(InputError, match=rf"{where} 'half' has dtype float32; expected integers"):
        run(context_for({"task": "instance"}, **images))


def test_no_foreground_on_either_side_is_perfect_and_said(context_for: Any) -> None:
    empty = ImageInput(np.zeros((2, 16, 16), np.uint8), "ZYX", name="empty")
    _, done = run(context_for({"task": "instance"}, truth=empty, prediction=empty))
    one = done["evaluations"]["empty"]
    assert one["ap50"] == one["pq"] == 1
    assert "seg" not in one
    assert "No object in truth or prediction" in one["notes"][0]
    _, done = run(context_for({"task": "semantic"}, truth=empty, prediction=empty))
    assert "Only background occurs" in done["evaluations"]["empty"]["notes"][0]


def test_ids_beyond_16_bits_and_with_gaps_are_scored_right(context_for: Any) -> None:
    ids = (np.arange(300 * 300).reshape(300, 300) + 1).astype(np.uint32) * 7
    truth = ImageInput(ids, "YX", name="many")
    planes, done = run(context_for({"task": "instance"}, truth=truth, prediction=truth))
    one = done["evaluations"]["many"]
    assert one["n_truth"] == 90_000
    assert one["ap50"] == 1
    assert (planes[0]["faults"] == FOUND).all()
    missing = ids.copy()
    missing[0] = 0
    planes, done = run(
        context_for({"task": "instance"}, truth=truth, prediction=ImageInput(missing, "YX"))
    )
    assert (planes[0]["faults"][0] == MISSED).all()


def test_depth_without_a_value_is_left_out(context_for: Any) -> None:
    rng = np.random.default_rng(0)
    height = rng.uniform(1, 3, (2, 20, 30)).astype(np.float32)
    truth = height.copy()
    truth[0, :5] = np.nan
    truth[1] = np.nan
    planes, done = run(
        context_for(
            {"task": "depth"},
            truth=ImageInput(truth, "TYX", name="t"),
            prediction=ImageInput(height + 1, "TYX", name="p"),
            image=ImageInput(rng.random((2, 20, 30)), "TYX"),
        )
    )
    one = done["evaluations"]["p"]
    assert one["n"] == 1
    assert one["rmse"] == pytest.approx(1, abs=1e-5)
    assert one["rmse_fit"] == pytest.approx(0, abs=1e-5)
    assert one["rmse_focus_fit"] <= one["rmse_mean"]
    assert "1 planes without any finite truth" in one["notes"][0]
    assert len(planes) == 1
    assert np.isnan(planes[0]["faults"][:5]).all()


def test_report_is_written_from_what_was_kept(context_for: Any, tmp_path: Path) -> None:
    truth, pred = stacks(1)
    payload = {"task": "instance", "notes": ["Cropped."], "about": {"model": "mine"}}
    _, done = run(context_for(payload, 5, truth=truth, prediction=pred))
    found = evaluation.report(context_for({"number": 5, "folder": str(tmp_path / "r")}, 6))
    text = Path(found["files"]["html"]).read_text(encoding="utf-8")
    assert "Cropped." in text
    assert "mine" in text
    assert f"{done['evaluations']['guess']['ap50']:.3f}" in text
    with pytest.raises(WorkerError, match="no longer kept"):
        evaluation.report(context_for({"number": 99, "folder": str(tmp_path)}, 7))


def test_folders_of_predictions_are_scored_in_the_worker_itself(
    make_client: Callable[..., WorkerClient], tmp_path: Path
) -> None:
    for name in ("truth", "guess", "best"):
        (tmp_path / name).mkdir()
    for seed in range(2):
        truth, pred = seeded_pair(seed)
        tifffile.imwrite(tmp_path / "truth" / f"{seed}.tif", truth.astype(np.uint16))
        tifffile.imwrite(tmp_path / "guess" / f"{seed}_instance.tif", pred.astype(np.uint16))
        tifffile.imwrite(tmp_path / "best" / f"{seed}_instance.tif", truth.astype(np.uint16))
    folders = {"truth": "truth", "prediction": "guess", "other": "best"}
    files = {kind: str(tmp_path / folder) for kind, folder in folders.items()}
    client = make_client(job_modules=[])
    event = client.submit("evaluate", {"task": "instance", "files": files}).wait(60)
    assert event.kind == "done", event.data
    assert set(event.data["evaluations"]) == {"guess", "best"}
    assert event.data["evaluations"]["best"]["ap50"] == 1
    number, folder = event.data["number"], str(tmp_path / "report")
    event = client.submit("evaluate_report", {"number": number, "folder": folder}).wait(60)
    assert Path(event.data["files"]["html"]).exists()
    files["truth"] = str(tmp_path / "nowhere")
    event = client.submit("evaluate", {"task": "instance", "files": files}).wait(60)
    assert "nowhere does not exist" in str(event.data["error"])
