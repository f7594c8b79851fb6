"""The built-in jobs, run here without a process; the last test runs them in a real one."""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
import threading
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinoscope.arrays.objects import object_table
from dinoscope.arrays.targets import instance_targets
from dinoscope.config import (
    InstanceOptions,
    PredictOptions,
    SplitOptions,
    TrainOptions,
    UnlabelledOptions,
)
from dinoscope.errors import AxesError, Cancelled, InputError, UsageError
from dinoscope.models.checkpoint import save_model
from dinoscope.models.model import Model
from dinoscope.types import ImageInput, PlaneOutput, Progress, Summary
from dinoscope.worker import models, prediction
from dinoscope.worker.client import WorkerClient
from dinoscope.worker.heights import heightmap
from dinoscope.worker.jobs import KINDS, JobContext, Tools, load_kinds
from dinoscope.worker.prediction import largest_overlap, memory_note
from dinoscope.worker.protocol import Event
from dinoscope.worker.training import source, train

RNG = np.random.default_rng(0)


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    return Tools(tmp_path / "session", threads=1)


@pytest.fixture
def model_file(tiny_model: Model, tmp_path: Path) -> str:
    path = tmp_path / "tiny.dinoscope"
    save_model(tiny_model, path, include_backbone=True)
    return str(path)


def cells(planes: int = 2, name: str = "cells") -> ImageInput:
    yy, xx = np.mgrid[:96, :120]
    spots = np.hypot((yy + 8) % 24 - 12, (xx + 8) % 24 - 12) < 7
    noise = RNG.normal(0, 0.05, (planes, *spots.shape))
    return ImageInput((spots + noise).astype(np.float32), "ZYX", {"Y": 0.5, "X": 0.5}, name)


def context_for(
    tools: Tools,
    payload: Mapping[str, Any],
    number: int = 1,
    check: Callable[[], None] = lambda: None,
    **images: ImageInput,
) -> JobContext:
    return JobContext(number, payload, images, tools, check, lambda progress: check())


def run(job: Any, context: JobContext) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
    """The data of the plane events, and of the last one."""
    steps = job(context)
    if not isinstance(steps, Generator):
        return [], steps
    planes = []
    while True:
        try:
            step = next(steps)
        except StopIteration as stop:
            return planes, stop.value
        assert isinstance(step, (Progress, Event))
        if isinstance(step, Event):
            planes.append(step.data)


# Predict and redecode


def test_predict_sends_each_plane_and_a_summary_with_the_time_of_transfers(
    tools: Tools, model_file: str
) -> None:
    options = PredictOptions(tasks=("instance", "classification"), device="cpu")
    payload = {"model": model_file, "options": options}
    planes, done = run(prediction.predict, context_for(tools, payload, 7, image=cells()))
    assert [plane["index"] for plane in planes] == [(0,), (1,)]
    assert planes[0]["arrays"]["instance"].shape == (96, 120)
    assert planes[0]["objects"] is not None
    assert set(planes[0]) == {"run", "index", "arrays", "objects", "classes"}
    assert done["run"] == planes[0]["run"] == "7"
    assert isinstance(done["summary"], Summary)
    assert done["summary"].seconds["transfer"] >= 0
    assert tools.runs.indices("7") == [(0,), (1,)]


def test_without_objects_no_maps_are_kept(tools: Tools, model_file: str) -> None:
    payload = {"model": model_file, "options": PredictOptions(tasks=("pca",), device="cpu")}
    planes, done = run(prediction.predict, context_for(tools, payload, image=cells(1)))
    assert done["run"] is None
    assert planes[0]["arrays"]["pca"].shape == (96, 120, 3)


def test_redecoding_with_the_same_options_gives_the_same_objects(
    tools: Tools, model_file: str
) -> None:
    instance = InstanceOptions(threshold=0.3, min_size_px=4)
    options = PredictOptions(
        tasks=("instance", "classification"), instance=instance, device="cpu", diameter_px=20
    )
    image = cells()
    payload = {"model": model_file, "options": options}
    before, _ = run(prediction.predict, context_for(tools, payload, 3, image=image))
    after, done = run(
        prediction.redecode, context_for(tools, {"run": "3", "options": instance}, 4, image=image)
    )
    assert len(after) == 2
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old["arrays"]["instance"], new["arrays"]["instance"])
        assert set(new["objects"]) == set(old["objects"])
        for name, column in old["objects"].items():
            np.testing.assert_array_equal(new["objects"][name], column)
        np.testing.assert_array_equal(new["classes"]["object"], old["classes"]["object"])
    assert done["next_id"] == 1 + int(before[-1]["arrays"]["instance"].max(initial=0))


@pytest.fixture(autouse=True)
def no_basins_of_other_tests() -> None:
    prediction._basins.clear()


@pytest.fixture
def kept_run(tools: Tools) -> Tools:
    """Run ``"9"``: two planes of four squares, cut out of a larger image at row 10, column 20."""
    ids = np.kron([[0, 0, 0], [0, 1, 2], [0, 3, 4]], np.ones((9, 9), int))
    maps = np.rint(instance_targets(ids) * 255).astype(np.uint8)
    info = {"region": (10, 20, 37, 47), "pixel_size_um": {"Y": 0.5, "X": 0.5}, "plane_axes": "T"}
    tools.runs.create("9", info)
    for index in ((0,), (1,)):
        tools.runs.keep("9", index, maps)
    return tools


def test_redecoding_some_planes_continues_their_ids(kept_run: Tools) -> None:
    payload = {"run": "9", "options": InstanceOptions(), "indices": [(1,)], "first_id": 5}
    planes, done = run(prediction.redecode, context_for(kept_run, payload))
    assert [plane["index"] for plane in planes] == [(1,)]
    assert np.unique(planes[0]["arrays"]["instance"]).tolist() == [0, 5, 6, 7, 8]
    assert planes[0]["objects"]["label"].tolist() == [5, 6, 7, 8]
    assert planes[0]["objects"]["t"].tolist() == [1] * 4
    assert planes[0]["classes"] is None
    assert done == {"run": "9", "next_id": 9}


def test_redecoded_objects_are_measured_where_they_lie_in_the_image(kept_run: Tools) -> None:
    image = ImageInput(np.full((2, 60, 60), 3, np.uint8), "TYX")
    payload = {"run": "9", "options": InstanceOptions(min_size_px=0)}
    planes, _ = run(prediction.redecode, context_for(kept_run, payload, image=image))
    table = planes[1]["objects"]
    first = object_table(planes[1]["arrays"]["instance"])
    np.testing.assert_allclose(table["centroid_y"], first["centroid_y"] + 10)
    np.testing.assert_allclose(table["centroid_x"], first["centroid_x"] + 20)
    assert table["mean_intensity_0"].tolist() == [3] * 4
    assert ((table["confidence"] > 0.5) & (table["confidence"] <= 1)).all()
    assert table["area_um2"].sum() == pytest.approx(table["area_px"].sum() / 4)
    assert np.concatenate([p["objects"]["label"] for p in planes]).tolist() == list(range(1, 9))


def test_options_reach_the_decoder(kept_run: Tools) -> None:
    payload = {"run": "9", "options": InstanceOptions(remove_border=True), "indices": [(0,)]}
    planes, _ = run(prediction.redecode, context_for(kept_run, payload))
    assert planes[0]["objects"]["label"].tolist() == [1]


def test_objects_keep_the_class_of_what_they_cover(kept_run: Tools) -> None:
    before = np.kron([[0, 0, 0], [0, 8, 8], [0, 6, 0]], np.ones((9, 9), np.uint32))
    names = np.array(["round", "long"], dtype=object)
    classes = {
        "object": np.array([6, 8]),
        "class": names,
        "probability": np.array([0.9, 0.6], np.float32),
        "p_long": np.array([0.1, 0.6], np.float32),
    }
    kept_run.runs.keep_classes("9", (0,), before, classes)
    payload = {"run": "9", "options": InstanceOptions(), "indices": [(0,)]}
    planes, _ = run(prediction.redecode, context_for(kept_run, payload))
    objects, found = planes[0]["objects"], planes[0]["classes"]
    assert objects["class"].tolist() == ["long", "long", "round", ""]
    np.testing.assert_allclose(objects["probability"], [0.6, 0.6, 0.9, np.nan], rtol=1e-6)
    assert found["object"].tolist() == [1, 2, 3]
    assert found["class"].tolist() == ["long", "long", "round"]
    np.testing.assert_allclose(found["p_long"], [0.6, 0.6, 0.1], rtol=1e-6)


def test_a_forgotten_run_says_what_to_do(kept_run: Tools) -> None:
    run(prediction.forget, context_for(kept_run, {"run": "9"}))
    with pytest.raises(InputError, match=r"not kept any more.*Run the prediction again"):
        run(prediction.redecode, context_for(kept_run, {"run": "9"}))


def test_a_full_disk_costs_the_sliders_and_not_the_results(
    tools: Tools, model_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tools.runs, "keep", full)
    payload = {"model": model_file, "options": PredictOptions(device="cpu")}
    planes, done = run(prediction.predict, context_for(tools, payload, image=cells()))
    assert len(planes) == 2
    assert done["run"] is None
    assert re.search("cannot be changed afterwards.*No space left", done["summary"].notes[-1])


def test_closing_a_prediction_closes_the_engines_generator(
    tools: Tools, model_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []

    def endless(*args: object) -> Generator[Progress, None, None]:
        try:
            while True:
                yield Progress("predict", 0, 1)
        finally:
            closed.append(True)

    monkeypatch.setattr("dinoscope.engine.predict.predict", endless)
    payload = {"model": model_file, "options": PredictOptions(device="cpu")}
    steps: Any = prediction.predict(context_for(tools, payload, image=cells()))
    for _ in range(4):
        next(steps)
    steps.close()
    assert closed == [True]


@pytest.mark.parametrize("as_path", [True, False])
def test_dark_and_flat_images_reach_the_engine(
    as_path: bool, tools: Tools, model_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dark: Any = np.full((96, 120), 0.1, np.float32)
    if as_path:
        np.save(tmp_path / "dark.npy", dark)
        dark = tmp_path / "dark.npy"
    seen: list[Any] = []

    def engine(image: Any, model: Any, options: Any, calibration: Any) -> Any:
        seen.append(calibration)
        yield PlaneOutput((0,), {})
        return Summary("m", "h", "cpu", ("pca",), 1, None, {})

    monkeypatch.setattr("dinoscope.engine.predict.predict", engine)
    payload = {
        "model": model_file,
        "options": PredictOptions(tasks=("pca",), device="cpu"),
        "calibration": {"dark": dark, "flat": None},
    }
    run(prediction.predict, context_for(tools, payload, image=cells(1)))
    assert np.squeeze(seen[0].dark).shape == (96, 120)
    assert seen[0].flat is None


def test_a_plane_is_cut_once_however_often_a_slider_moves(
    kept_run: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dinoscope.arrays.decode as decode

    cuts: list[tuple[int, ...]] = []
    cut = decode.basins
    monkeypatch.setattr(decode, "basins", lambda maps: cuts.append(maps.shape) or cut(maps))
    for threshold in (0.2, 0.4, 0.6):
        payload = {"run": "9", "options": InstanceOptions(threshold=threshold), "indices": [(0,)]}
        run(prediction.redecode, context_for(kept_run, payload))
    prediction._cut_ahead(kept_run.runs, "9")
    assert cuts.count((3, 27, 27)) == 2
    prediction._cut_ahead(kept_run.runs, "no such run")


@pytest.mark.parametrize("seed", range(5))
def test_largest_overlap_is_what_counting_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids, other = rng.integers(0, 6, (2, 30, 30)).astype(np.uint32)
    found = largest_overlap(ids, other)
    assert found[0] == 0
    for label in range(1, len(found)):
        counts = np.bincount(other[ids == label], minlength=6)
        counts[0] = 0
        assert counts[found[label]] == counts.max()


def test_an_object_over_background_overlaps_nothing() -> None:
    assert largest_overlap(np.ones((2, 2), np.uint32), np.zeros((2, 2), np.uint32)).tolist() == [
        0,
        0,
    ]


# Cost, size, heights


def test_an_estimate_tells_seconds_and_memory(tools: Tools, model_file: str) -> None:
    payload = {"model": model_file, "options": PredictOptions(device="cpu")}
    _, cost = run(prediction.estimate, context_for(tools, payload, image=cells()))
    assert cost["seconds"] > 0
    assert cost["memory_mb"] > 0
    assert cost["planes"] == 2
    assert isinstance(cost["note"], str)


def test_too_little_memory_is_said_before_the_run() -> None:
    assert memory_note(100, 200) == ""
    assert memory_note(100, None) == ""
    assert memory_note(12_000, 3_400).startswith("Needs about 12.0 GB, and 3.4 GB are free")


def test_the_diameter_needs_a_model_that_looks_for_objects(tools: Tools) -> None:
    payload = {"model": "tiny-test", "options": PredictOptions(device="cpu")}
    with pytest.raises(InputError, match="'tiny-test' does not look for objects"):
        run(prediction.diameter, context_for(tools, payload, image=cells()))


def test_the_diameter_is_measured_on_the_image_as_it_is_preprocessed(
    tools: Tools, model_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dinoscope.engine import scale

    seen: list[bool] = []
    monkeypatch.setattr(
        scale,
        "estimate_diameter",
        lambda prepared, runner: seen.append(prepared.normalization.local_contrast),
    )
    options = PredictOptions(device="cpu", local_contrast=True)
    payload = {"model": model_file, "options": options}
    run(prediction.diameter, context_for(tools, payload, image=cells()))
    assert seen == [True]


def test_a_diameter_is_a_number_or_none(tools: Tools, model_file: str) -> None:
    payload = {"model": model_file, "options": PredictOptions(device="cpu")}
    _, done = run(prediction.diameter, context_for(tools, payload, image=cells()))
    assert done["diameter_px"] is None or done["diameter_px"] > 0


def test_a_height_map_needs_a_stack(tools: Tools) -> None:
    flat = ImageInput(np.zeros((8, 8)), "YX", name="flat")
    with pytest.raises(AxesError, match="'flat' has axes YX"):
        run(heightmap, context_for(tools, {}, image=flat))


def test_heights_are_measured_for_every_time_point(tools: Tools) -> None:
    texture = RNG.normal(0, 1, (40, 40))
    stack = np.stack([texture / (1 + abs(z - 3)) for z in range(7)])
    image = ImageInput(np.stack([stack, stack[::-1]]), "TZYX", {"Z": 2.0, "Y": 1.0, "X": 1.0})
    planes, done = run(heightmap, context_for(tools, {}, image=image))
    assert [plane["index"] for plane in planes] == [(0,), (1,)]
    assert done["unit"] == "µm"
    assert np.median(planes[0]["arrays"]["height"]) == pytest.approx(6, abs=0.5)
    assert set(planes[0]["arrays"]) == {"height", "confidence", "all_in_focus", "mask"}


def test_a_cancel_is_seen_between_slices(tools: Tools) -> None:
    def check() -> None:
        raise Cancelled("cancelled by the user")

    image = ImageInput(RNG.normal(0, 1, (5, 20, 20)), "ZYX")
    with pytest.raises(Cancelled):
        run(heightmap, context_for(tools, {}, check=check, image=image))


# Models


def test_a_model_is_loaded_once_and_again_when_its_file_changes(model_file: str) -> None:
    cache = models.ModelCache()
    first = cache.get(model_file, "cpu")
    assert cache.get(model_file, "cpu") is first
    again = Path(model_file).with_name("again.dinoscope")
    shutil.copy(model_file, again)
    again.replace(model_file)
    assert cache.get(model_file, "cpu") is not first


def test_only_a_few_models_stay_loaded(model_file: str) -> None:
    cache = models.ModelCache()
    first = cache.get(model_file, "cpu")
    for number in range(models.KEPT_MODELS):
        other = Path(model_file).with_name(f"other{number}.dinoscope")
        shutil.copy(model_file, other)
        cache.get(str(other), "cpu")
    assert cache.get(model_file, "cpu") is not first


def test_the_list_has_given_files_with_what_is_wrong_with_them(
    tools: Tools, model_file: str, tmp_path: Path
) -> None:
    (tmp_path / "bad.dinoscope").write_bytes(b"not a model")
    files = [model_file, str(tmp_path / "bad.dinoscope")]
    _, done = run(models.models, context_for(tools, {"files": files}))
    good, bad = done["models"][-2:]
    assert (good["name"], good["available"]) == (model_file, True)
    assert set(good["tasks"]) == {"instance", "classification"}
    assert not bad["available"]
    assert "bad.dinoscope" in bad["note"]
    assert set(done["models"][0]) == set(good)


def test_a_card_is_plain_values(tools: Tools, model_file: str) -> None:
    _, done = run(models.inspect, context_for(tools, {"model": model_file}))
    assert done["card"]["backbone"] == "tiny-test"
    with pytest.raises(UsageError, match="no model 'nothing'"):
        run(models.inspect, context_for(tools, {"model": "nothing"}))


def test_a_warm_up_without_the_packaged_model_says_so_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(models, "FIRST_MODEL", "no-such-model")
    found = models.ModelCache().warm_up(1)
    assert "no-such-model" in found["problem"]
    assert found["device"] in ("cpu", "cuda", "mps")


# Training


def test_sources_may_be_layers_files_or_class_names(tmp_path: Path) -> None:
    images = {"a": cells(name="a"), "b": cells(name="b")}
    mixed = source(
        {
            "task": "instance",
            "images": [{"image": "a"}, str(tmp_path / "c.tif")],
            "truths": [{"image": "b"}, tmp_path / "d.tif"],
        },
        images,
    )
    assert mixed.images == [images["a"], tmp_path / "c.tif"]
    assert mixed.truths == [images["b"], tmp_path / "d.tif"]
    named = {"task": "classification", "images": [{"image": "a"}], "truths": ["round"]}
    assert source(named, images).truths == ["round"]


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"task": "depth", "images": []}, "lacks truths"),
        ({"task": "depth", "images": [{"image": "z"}], "truths": ["a.tif"]}, "names image 'z'"),
    ],
)
def test_a_source_that_is_not_complete_is_a_clear_error(entry: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        source(entry, {"a": cells()})


def test_training_reports_its_loss_and_writes_a_model(
    tools: Tools, model_file: str, tmp_path: Path
) -> None:
    images = {f"image{i}": cells(1, f"image{i}") for i in range(2)}
    truth = ImageInput((np.asarray(cells(1).data) > 0.5).astype(np.uint8), "ZYX")
    steps: Any = train(
        context_for(
            tools,
            {
                "sources": [
                    {
                        "task": "semantic",
                        "images": [{"image": "image0"}, {"image": "image1"}],
                        "truths": [{"image": "truth"}, {"image": "truth"}],
                    }
                ],
                "options": TrainOptions(
                    epochs=1, batch_size=2, crop_px=56, device="cpu", tune="heads", threads=1
                ),
                "base": model_file,
                "output": str(tmp_path / "new.dinoscope"),
            },
            truth=truth,
            **images,
        )
    )
    values: dict[str, float] = {}
    try:
        while True:
            values |= next(steps).values
    except StopIteration as stop:
        done = stop.value
    assert np.isfinite(values["loss"])
    assert Path(done["output"]).is_file()
    assert done["summary"]["tasks"] == ("semantic",)
    assert isinstance(done["summary"], dict)


# The registry


def test_every_kind_resolves_to_a_function() -> None:
    for kind in KINDS.values():
        named = inspect.getclosurevars(kind.function).nonlocals
        module = importlib.import_module(f"dinoscope.worker.{named['module']}")
        assert callable(getattr(module, named["name"]))


def test_a_module_without_jobs_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(InputError, match="has no JOBS"):
        load_kinds([str(tmp_path / "empty.py")])


# In a process


def test_training_takes_images_without_labels_and_a_test_part(
    tools: Tools, model_file: str, tmp_path: Path
) -> None:
    payload: dict[str, Any] = {
        "sources": [
            {
                "task": "instance",
                "images": [{"image": f"i{n}"} for n in range(3)],
                "truths": [{"image": "truth"}] * 3,
            }
        ],
        "options": TrainOptions(tune="lora-last:1", epochs=1, batch_size=2, crop_px=56),
        "base": "tiny-test",
        "output": str(tmp_path / "m.dinoscope"),
        "splits": SplitOptions(test_fraction=0.3),
        "unlabelled": {
            "images": [{"image": "more"}],
            "options": UnlabelledOptions("consistency", ramp_up=0.0, crops=2),
        },
    }
    images = {f"i{n}": cells(2, f"i{n}") for n in range(3)}
    ids = (np.asarray(images["i0"].data) > 0.5).astype(np.uint16)
    truth = ImageInput(ids, "ZYX", name="truth")
    context = context_for(tools, payload, truth=truth, more=cells(4, "more"), **images)
    _, done = run(train, context)
    summary = done["summary"]
    assert "test_ap50" in summary["scores"]
    assert any("consistency on 4 planes" in note for note in summary["notes"])
    payload["unlabelled"] = {"images": [{"image": "ghost"}]}
    with pytest.raises(InputError, match="names image 'ghost'"):
        run(train, context_for(tools, payload, truth=truth, **images))


@pytest.mark.slow
def test_a_panels_day_predict_adjust_train_cancel_be_killed_and_adjust_again(
    make_client: Callable[..., WorkerClient], model_file: str, tmp_path: Path
) -> None:
    client = make_client(job_modules=[])
    planes: list[dict[str, Any]] = []
    learning = threading.Event()

    def collect(event: Event) -> None:
        if event.kind == "plane":
            planes.append(event.data)
        if event.kind == "progress" and "loss" in event.data["values"]:
            learning.set()

    options = PredictOptions(tasks=("instance", "pca"), device="cpu", diameter_px=20)
    payload = {"model": model_file, "options": options}
    done = client.submit("predict", payload, {"image": cells()}, collect).wait(120)
    assert done.kind == "done", done.data
    assert [plane["index"] for plane in planes] == [(0,), (1,)]
    assert planes[0]["arrays"]["pca"].flags.writeable
    assert done.data["summary"].seconds["transfer"] > 0

    looser = {
        "run": done.data["run"],
        "options": InstanceOptions(threshold=0.1),
        "indices": [(1,)],
    }
    assert client.submit("redecode", looser, on_event=collect).wait(30).kind == "done"

    output = tmp_path / "new.dinoscope"
    training = client.submit(
        "train",
        {
            "sources": [
                {
                    "task": "depth",
                    "images": [{"image": "a"}, {"image": "b"}, {"image": "c"}],
                    "truths": [{"image": "heights"}] * 3,
                }
            ],
            "options": TrainOptions(minutes=5, batch_size=2, crop_px=56, device="cpu"),
            "base": model_file,
            "output": str(output),
        },
        {name: cells(1, name) for name in ("a", "b", "c", "heights")},
        collect,
    )
    assert learning.wait(120)
    training.cancel()
    assert training.wait(5).kind == "cancelled"
    assert not output.exists()

    process = client._process
    assert process is not None
    process.kill()
    # The maps outlive the worker, and no torch is needed for them.
    assert client.submit("redecode", looser, on_event=collect).wait(30).kind == "done"
    np.testing.assert_array_equal(
        planes[-1]["arrays"]["instance"], planes[-2]["arrays"]["instance"]
    )
