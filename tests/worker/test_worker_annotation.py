"""The jobs of the fast loop, run here without a process; the last test runs them in one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from dinoscope.config import AnnotateOptions
from dinoscope.engine.scribble import features
from dinoscope.errors import InputError, MissingHeadError, OutputError
from dinoscope.models.card import HeadSpec
from dinoscope.models.checkpoint import load_model, save_model
from dinoscope.types import ImageInput
from dinoscope.widgets import _regions
from dinoscope.worker.client import WorkerClient
from dinoscope.worker.jobs import KINDS, JobContext, Tools
from dinoscope.worker.protocol import Event

OPTIONS = AnnotateOptions(zoom=1, threads=1)
SIDE = 112


def stripes(planes: int = 2, seed: int = 0) -> ImageInput:
    """Left half striped and bright, right half noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    image = np.where(columns < SIDE // 2, 300 + 100 * np.sin(rows / 3), 0)
    stack = [image + rng.normal(0, 20, (SIDE, SIDE)) for _ in range(planes)]
    return ImageInput(np.stack(stack).astype(np.float32), "ZYX", {"Y": 0.5, "X": 0.5}, "stripes")


def painted(*dabs: tuple[int, int, int]) -> dict[str, Any]:
    """A vertical stroke of 20 px at each (y, x, code)."""
    layer = np.zeros((SIDE, SIDE), np.uint8)
    for y, x, code in dabs:
        layer[y : y + 20, x] = code
    pixels = np.flatnonzero(layer)
    return {"pixels": pixels, "codes": layer.ravel()[pixels]}


BOTH = painted((10, 20, 2), (80, 30, 2), (10, 80, 1), (80, 90, 1))


class Worker:
    """Runs jobs one after the other on one set of tools."""

    def __init__(self, folder: Path) -> None:
        self.tools = Tools(folder, threads=1)
        self.planes: list[dict[str, Any]] = []

    def __call__(
        self, kind: str, images: Mapping[str, ImageInput] | None = None, **payload: Any
    ) -> dict[str, Any]:
        self.planes = []
        context = JobContext(
            1, payload, images or {}, self.tools, lambda: None, lambda progress: None
        )
        steps: Any = KINDS[f"annotate_{kind}"].function(context)
        if isinstance(steps, Mapping):
            return dict(steps)
        while True:
            try:
                step = next(steps)
            except StopIteration as stop:
                return dict(stop.value)
            if isinstance(step, Event):
                self.planes.append(step.data)

    def labels(self, session: str, index: tuple[int, ...] = (0,), **more: Any) -> np.ndarray:
        """The preview of a plane."""
        self("preview", {"image": stripes()}, session=session, source="s", index=index, **more)
        return np.asarray(self.planes[0]["labels"])


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path)


@pytest.fixture
def session(worker: Worker) -> str:
    return str(worker("open", model="embedded", options=OPTIONS, codes=(1, 2))["session"])


def right(labels: np.ndarray) -> float:
    """Share of pixels that have the code of their half."""
    truth = np.where(np.arange(SIDE) < SIDE // 2, 2, 1)
    return float((labels == truth).mean())


def test_a_few_strokes_label_the_whole_plane_and_the_next_one(worker: Worker, session: str) -> None:
    strokes = [{"source": "s", "index": (0,), **BOTH}]
    assert right(worker.labels(session, strokes=strokes)) > 0.9
    assert right(worker.labels(session, index=(1,))) > 0.9


def test_a_model_that_knows_these_very_classes_has_its_say(worker: Worker, tmp_path: Path) -> None:
    model = load_model("embedded")
    model.keep_heads(["instance"])
    model.add_head("semantic", HeadSpec("dense", 2, ("background", "stripes")))
    with torch.no_grad():
        model.heads["semantic"].out.bias += torch.tensor([-30.0, 30.0]).repeat_interleave(4)  # type: ignore[union-attr, operator]
    path = tmp_path / "ours.dinoscope"
    save_model(model, path, include_backbone=True)
    strokes = [{"source": "s", "index": (0,), **BOTH}]
    shares = {}
    for classes in (("background", "stripes"), ("background", "cells"), ()):
        opened = worker("open", model=str(path), options=OPTIONS, codes=(1, 2), classes=classes)
        assert opened["own_classes"] == (classes == ("background", "stripes"))
        labels = worker.labels(str(opened["session"]), strokes=strokes)
        shares[classes] = float((labels == 2).mean())
    # It says so everywhere, as sure as it is; the strokes have the other half of the say.
    assert shares["background", "stripes"] > 0.7
    assert 0.4 < shares["background", "cells"] < 0.6
    assert shares["background", "cells"] == shares[()]


def test_a_plane_in_the_panel_s_pieces_is_the_whole_plane(
    worker: Worker, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_regions, "WHOLE_PIXELS", 3000)
    monkeypatch.setattr(_regions, "BLOCK_PX", 48)
    strokes = [{"source": "s", "index": (0,), **BOTH}]
    whole = worker.labels(session, strokes=strokes)
    found = np.zeros_like(whole)
    regions = _regions.pieces((SIDE, SIDE), (5, 20, 45, 80))
    assert len(regions) == 10
    worker.labels(session, regions=regions)
    assert [p["region"] for p in worker.planes] == list(regions)
    for plane in worker.planes:
        y0, x0, y1, x1 = plane["region"]
        found[y0:y1, x0:x1] = plane["labels"]
    assert np.array_equal(found, whole)


@pytest.mark.parametrize("stride", [1, 2])
def test_an_overview_comes_first_and_is_every_few_pixels_of_the_plane(
    stride: int, worker: Worker, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "stride_for", lambda shape: stride)
    strokes = [{"source": "s", "index": (0,), **BOTH}]
    want = ("labels", "uncertainty")
    worker.labels(session, strokes=strokes, overview=True, want=want)
    first, whole = worker.planes
    step = first["step"]
    assert (step, whole["step"]) == (2 * stride, 1)
    assert first["region"] is None
    assert first["uncertainty"].shape == first["labels"].shape == (SIDE // step, SIDE // step)
    assert np.array_equal(first["labels"], whole["labels"][::step, ::step])


def test_a_draft_is_about_right_and_leaves_no_trace(worker: Worker, session: str) -> None:
    strokes = [{"source": "s", "index": (0,), **BOTH}]
    assert right(worker.labels(session, strokes=strokes, draft=True)) > 0.8
    assert worker.planes[0]["draft"]
    after = worker.labels(session)
    assert not worker.planes[0]["draft"]
    worker("close", session=session)
    other = str(worker("open", model="embedded", options=OPTIONS, codes=(1, 2))["session"])
    np.testing.assert_array_equal(after, worker.labels(other, strokes=strokes))


def test_preparing_ahead_makes_the_image_needless(worker: Worker, session: str) -> None:
    plane = {"session": session, "source": "s", "index": (1,)}
    first = worker("prepare", {"image": stripes()}, **plane)
    assert (first["cached"], first["shape"]) == (False, (SIDE, SIDE))
    assert worker("prepare", {"image": stripes()}, **plane)["cached"]
    assert worker("strokes", **plane, **BOTH) == {"count": 80}
    done = worker("preview", **plane, want=("labels", "uncertainty", "probabilities"))
    found = worker.planes[0]
    assert done["classes"] == (1, 2)
    assert found["uncertainty"].dtype == np.uint8
    assert found["probabilities"].shape == (2, SIDE, SIDE)
    assert np.allclose(found["probabilities"].sum(0), 1, atol=1e-3)


def test_a_large_plane_has_first_labels_before_its_tokens(worker: Worker, session: str) -> None:
    side = 768
    rows, columns = np.mgrid[:side, :side]
    noise = np.random.default_rng(0).normal(0, 20, (side, side))
    pixels = np.where(columns < side // 2, 300 + 100 * np.sin(rows / 3), 0) + noise
    image = {"image": ImageInput(pixels.astype(np.float32), "YX", name="large")}
    layer = np.zeros((side, side), np.uint8)
    layer[100:180, 150], layer[500:580, 200] = 2, 2
    layer[100:180, 600], layer[500:580, 700] = 1, 1
    painted = np.flatnonzero(layer)
    plane = {"session": session, "source": "large", "index": ()}
    stroke = {"source": "large", "index": (), "pixels": painted, "codes": layer.ravel()[painted]}
    truth = np.where(columns < side // 2, 2, 1)
    region = (10, 20, 700, 768)
    worker("preview", image, **plane, strokes=[stroke], regions=(region,))
    first, then = (np.asarray(p["labels"]) for p in worker.planes)
    assert (first == truth[10:700, 20:]).mean() > 0.9
    assert (then == truth[10:700, 20:]).mean() > 0.9
    # The same labels as where the tokens were there from the start: nothing of the first remains.
    other = str(worker("open", model="embedded", options=OPTIONS, codes=(1, 2))["session"])
    plane["session"] = other
    worker("prepare", image, **plane)
    worker("preview", image, **plane, strokes=[stroke], regions=(region,))
    assert len(worker.planes) == 1
    assert np.array_equal(worker.planes[0]["labels"], then)


def test_a_first_look_forgets_pixels_that_have_changed(worker: Worker, session: str) -> None:
    rng = np.random.default_rng(0)
    before, after = (rng.normal(100, 20, (768, 768)).astype(np.float32) for _ in range(2))
    after[:, :384] += 200

    def first(name: str, pixels: np.ndarray) -> np.ndarray:
        own = worker.tools.annotation.session(name)
        image = ImageInput(pixels, "YX", name="large")
        own.set_strokes("large", (), np.array([150_000, 150_700]), np.array([1, 2]))
        steps = own.rough("large", (), image)
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                return np.asarray(stop.value.labels)

    first(session, before)
    worker.tools.annotation.session(session).forget("large")
    other = str(worker("open", model="embedded", options=OPTIONS, codes=(1, 2))["session"])
    assert np.array_equal(first(session, after), first(other, after))


def test_a_region_is_that_part_of_the_whole(worker: Worker, session: str) -> None:
    whole = worker.labels(session, strokes=[{"source": "s", "index": (0,), **BOTH}])
    part = worker.labels(session, regions=[(11, 40, 70, 200)])
    assert part.shape == (59, SIDE - 40)
    assert np.array_equal(part, whole[11:70, 40:])


def test_equal_strokes_give_equal_labels_in_whatever_order_they_came(
    worker: Worker, session: str
) -> None:
    first = worker.labels(session, strokes=[{"source": "s", "index": (0,), **BOTH}])
    worker.labels(session, strokes=[{"source": "s", "index": (0,), **painted((0, 0, 2))}])
    again = worker.labels(session, strokes=[{"source": "s", "index": (0,), **BOTH}])
    assert np.array_equal(first, again)


def test_without_strokes_nothing_is_labelled(worker: Worker, session: str) -> None:
    assert not worker.labels(session).any()
    worker.labels(session, strokes=[{"source": "s", "index": (0,), **BOTH}])
    nothing = {"pixels": np.zeros(0, np.int64), "codes": np.zeros(0, np.uint8)}
    assert not worker.labels(session, strokes=[{"source": "s", "index": (0,), **nothing}]).any()


def test_strokes_on_a_plane_that_was_never_shown_are_told_and_count_later(
    worker: Worker, session: str
) -> None:
    worker("strokes", session=session, source="s", index=(1,), **BOTH)
    done = worker("preview", {"image": stripes()}, session=session, source="s", index=(0,))
    assert any("shown" in note for note in done["notes"])
    worker("prepare", {"image": stripes()}, session=session, source="s", index=(1,))
    assert right(worker.labels(session)) > 0.9


def test_held_out_strokes_tell_accuracy_and_calibration(worker: Worker, session: str) -> None:
    strokes = painted(*((y, x, 2) for y in (5, 40, 80) for x in (10, 40)), (5, 70, 1), (60, 100, 1))
    payload = {"strokes": [{"source": "s", "index": (0,), **strokes}]}
    worker("preview", {"image": stripes()}, session=session, source="s", index=(0,), **payload)
    done = worker("numbers", session=session)
    assert done["accuracy_heldout"] > 0.8
    assert 0 <= done["ece"] < 0.2
    few = {"strokes": [{"source": "s", "index": (0,), **painted((5, 10, 2), (5, 70, 1))}]}
    worker("preview", {"image": stripes()}, session=session, source="s", index=(0,), **few)
    done = worker("numbers", session=session)
    assert (done["ece"], done["accuracy_heldout"]) == (None, None)


def test_next_place_is_uncertain_unpainted_and_not_where_one_was_sent_before(
    worker: Worker, session: str
) -> None:
    worker.labels(session, strokes=[{"source": "s", "index": (0,), **BOTH}])
    sources = {"s": [(0,), (1,)]}
    first = worker("next", session=session, sources=sources)
    assert (first["source"], first["index"]) == ("s", (0,))
    both = worker("next", {"s": stripes()}, session=session, sources=sources, all=True)
    visited = [("s", both["index"], both["y"], both["x"])]
    other = worker("next", session=session, sources=sources, visited=visited)
    assert (other["index"], other["y"], other["x"]) != visited[0][1:]
    assert other["score"] <= both["score"]


def disks() -> tuple[np.ndarray, ImageInput]:
    """Scribble codes with two pairs of touching disks, and their image."""
    y, x = np.mgrid[:SIDE, :SIDE]
    labels = np.ones((SIDE, SIDE), np.uint8)
    for cy, cx, code in ((30, 30, 2), (30, 49, 2), (80, 30, 3), (80, 80, 2)):
        labels[(y - cy) ** 2 + (x - cx) ** 2 < 100] = code
    return labels, ImageInput((labels * 50.0).astype(np.float32), "YX", {"Y": 0.5, "X": 0.5}, "d")


def test_touching_objects_are_parted_and_measured(worker: Worker, session: str) -> None:
    labels, image = disks()
    done = worker(
        "objects",
        {"image": image},
        session=session,
        source="d",
        index=(),
        labels=labels,
        method="watershed",
    )
    assert done["instances"].dtype == np.uint32
    assert done["classes"] == {1: 2, 2: 2, 3: 3, 4: 2}
    assert np.allclose(done["table"]["area_um2"], np.pi * 25, rtol=0.1)
    assert done["table"]["class"].tolist() == [2, 2, 3, 2]


def test_objects_by_the_instance_head_lie_within_the_preview(worker: Worker, session: str) -> None:
    labels, image = disks()
    plane = {"session": session, "source": "d", "index": (), "labels": labels}
    done = worker("objects", {"image": image}, **plane, method="instance")
    assert set(np.unique(labels[done["instances"] > 0])) <= {2, 3}
    assert len(done["classes"]) >= 3


def test_examples_give_all_objects_a_class(worker: Worker, session: str) -> None:
    y, x = np.mgrid[:SIDE, :SIDE]
    ids = np.zeros((SIDE, SIDE), np.uint32)
    image = np.zeros((SIDE, SIDE), np.float32)
    for number in range(12):
        cy, cx = 14 + 28 * (number // 4), 14 + 28 * (number % 4)
        disk = (y - cy) ** 2 + (x - cx) ** 2 < (36 if number % 2 else 100)
        ids[disk] = number + 1
        image[disk] = 1 if number % 2 else 2
    done = worker(
        "object_classes",
        {"image": ImageInput(image, "YX", {"Y": 0.5, "X": 0.5}, "d")},
        session=session,
        source="d",
        index=(),
        instances=ids,
        examples={1: 2, 2: 3, 3: 2, 4: 3},
    )
    assert done["classes"] == {n + 1: 3 if n % 2 else 2 for n in range(12)}
    assert done["probabilities"].shape == (12, 2)
    assert done["table"]["class"].tolist() == [2, 3] * 6
    with pytest.raises(InputError, match="object 99"):
        worker(
            "object_classes",
            {"image": ImageInput(image, "YX", {}, "d")},
            session=session,
            source="d",
            index=(),
            instances=ids,
            examples={99: 2},
        )


def test_all_planes_and_files_are_labelled(worker: Worker, session: str, tmp_path: Path) -> None:
    worker.labels(session, strokes=[{"source": "s", "index": (0,), **BOTH}])
    assert worker("apply", {"s": stripes(3)}, session=session)["planes"] == 3
    assert [p["index"] for p in worker.planes] == [(0,), (1,), (2,)]
    file = tmp_path / "in.tif"
    tifffile.imwrite(file, np.asarray(stripes(1, seed=5).data)[0])
    payload = {"session": session, "files": [str(file)], "output": str(tmp_path / "out")}
    written = worker("apply", **payload)["files"]
    assert [Path(f).name for f in written] == ["in_semantic.tif"]
    assert right(tifffile.imread(written[0]) + 1) > 0.9
    with pytest.raises(OutputError, match="in_semantic"):
        worker("apply", **payload)


def test_a_saved_classifier_goes_on_in_another_session(
    worker: Worker, session: str, tmp_path: Path
) -> None:
    before = worker.labels(session, strokes=[{"source": "s", "index": (0,), **BOTH}])
    path = worker("save", session=session, path=str(tmp_path / "mine"))["path"]
    opened = worker("open", model="embedded", options=OPTIONS, codes=(), classifier=path)
    assert opened["classes"] == (1, 2)
    assert np.array_equal(worker.labels(opened["session"]), before)
    Path(path).write_bytes(Path(path).read_bytes()[:-50])
    with pytest.raises(InputError, match="cannot be read"):
        worker("open", model="embedded", options=OPTIONS, codes=(), classifier=path)


def test_tokens_come_from_disk_in_the_next_session(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DINOSCOPE_CACHE", str(tmp_path / "cache"))
    for number in (1, 2):
        fresh = Worker(tmp_path / str(number))
        name = fresh("open", model="embedded", options=OPTIONS, codes=())["session"]
        if number == 2:
            monkeypatch.setattr(
                "dinoscope.engine.explore.encode.ImageRun.encode",
                lambda *_: pytest.fail("it was encoded again"),
            )
        fresh("prepare", {"image": stripes()}, session=name, source="other name", index=(0,))


@pytest.mark.parametrize(
    ("kind", "payload", "problem"),
    [
        ("strokes", {"pixels": np.array([-1]), "codes": np.array([1])}, "pixels -1"),
        ("strokes", {"pixels": np.array([0, 1]), "codes": np.array([1])}, "equal length"),
        ("strokes", {"pixels": np.array([0]), "codes": np.array([300])}, "codes 300"),
        ("strokes", {"pixels": np.array([0.5]), "codes": np.array([1])}, "integers"),
        ("preview", {}, "not prepared"),
        ("preview", {"want": ("depth",)}, "want is"),
        ("objects", {"method": "guess"}, "method is"),
        ("objects", {"min_size_px": -1}, "min_size_px"),
        ("next", {"sources": {}}, "nothing is annotated"),
        ("save", {"path": "x"}, "nothing is annotated"),
        ("apply", {}, "nothing is annotated"),
    ],
)
def test_what_cannot_be_used_is_told(
    worker: Worker, session: str, kind: str, payload: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        worker(kind, session=session, source="s", index=(0,), **payload)


def test_strokes_beyond_their_plane_are_told(worker: Worker, session: str) -> None:
    beyond = {"pixels": np.array([SIDE * SIDE]), "codes": np.array([1])}
    worker("strokes", session=session, source="s", index=(0,), **beyond)  # its size is not known
    with pytest.raises(InputError, match="another image"):
        worker.labels(session)


def test_an_unknown_session_says_what_to_do(worker: Worker) -> None:
    with pytest.raises(InputError, match=r"session 'a9' is not known.*send the strokes again"):
        worker("preview", session="a9", source="s", index=())
    assert worker("close", session="a9") == {}


def test_a_model_without_the_head_cannot_part_objects_by_it(worker: Worker) -> None:
    name = worker("open", model="embedded-redcells", options=OPTIONS, codes=())["session"]
    labels, image = disks()
    plane = {"session": name, "source": "d", "index": (), "labels": labels}
    with pytest.raises(MissingHeadError):
        worker("objects", {"image": image}, **plane, method="instance")


def test_through_a_worker_process() -> None:
    client = WorkerClient(threads=1)
    try:
        opened = client.submit("annotate_open", {"model": "embedded", "options": OPTIONS}).wait(120)
        assert opened.kind == "done", opened.data
        planes: list[Event] = []
        payload = {"session": opened.data["session"], "source": "s", "index": (0,)}
        payload["strokes"] = [{"source": "s", "index": (0,), **BOTH}]
        job = client.submit("annotate_preview", payload, {"image": stripes()}, planes.append)
        assert job.wait(120).kind == "done"
        shown = [e.data["labels"] for e in planes if e.kind == "plane"]
        assert right(shown[0]) > 0.9
    finally:
        client.close()
