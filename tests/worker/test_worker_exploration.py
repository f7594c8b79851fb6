"""The jobs of the Features panel, run here without a process; the last test runs them in one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dinoscope.arrays.patches import PatchGrid
from dinoscope.config import ClusterOptions, ExploreOptions, PcaOptions, SimilarityOptions
from dinoscope.errors import InputError
from dinoscope.types import ImageInput
from dinoscope.worker.client import WorkerClient
from dinoscope.worker.jobs import KINDS, JobContext, Tools
from dinoscope.worker.protocol import Event

OPTIONS = ExploreOptions(zoom=1, threads=1)


def stripes(name: str = "stripes", planes: int = 2) -> ImageInput:
    """Left half striped and bright, right half noise."""
    rng = np.random.default_rng(len(name))
    rows, columns = np.mgrid[:120, :120]
    image = np.where(columns < 60, 300 + 100 * np.sin(rows / 3), rng.normal(0, 60, (120, 120)))
    return ImageInput(np.stack([image] * planes).astype(np.float32), "ZYX", {"Y": 0.5}, name)


def halves() -> ImageInput:
    labels = np.ones((120, 120), np.uint8)
    labels[:, 60:] = 2
    return ImageInput(labels, "YX", {}, "halves")


class Worker:
    """Runs jobs one after the other on one set of tools."""

    def __init__(self, folder: Path) -> None:
        self.tools = Tools(folder, threads=1)
        self.events: list[Event] = []

    def __call__(
        self, kind: str, images: Mapping[str, ImageInput] | None = None, **payload: Any
    ) -> dict[str, Any]:
        self.events = []
        context = JobContext(
            1, payload, images or {}, self.tools, lambda: None, lambda progress: None
        )
        steps: Any = KINDS[kind].function(context)
        if isinstance(steps, Mapping):
            return dict(steps)
        while True:
            try:
                step = next(steps)
            except StopIteration as stop:
                return dict(stop.value)
            if isinstance(step, Event):
                self.events.append(step)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    return Worker(tmp_path_factory.mktemp("worker"))


@pytest.fixture(scope="module")
def sets(worker: Worker) -> list[dict[str, Any]]:
    """Sets of two images of two planes."""
    images = {"image": stripes(), "image2": stripes("other")}
    done = worker("tokens", images, model="tiny-test", options=OPTIONS)
    found: list[dict[str, Any]] = done["sets"]
    return found


def test_a_set_tells_what_it_is(sets: list[dict[str, Any]]) -> None:
    first, second = sets
    assert (first["image"], first["name"], second["name"]) == ("image", "stripes", "other")
    assert first["indices"] == [(0,), (1,)]
    assert (first["dim"], first["adapter"], first["tuned"]) == (64, True, False)
    grid = PatchGrid(**first["grid"])
    assert grid.grid == (9, 9)
    assert grid.patch_at(14, 0) == (1, 0)


def test_planes_that_are_equal_are_encoded_once(worker: Worker) -> None:
    done = worker("tokens", {"image": stripes()}, model="tiny-test", options=OPTIONS)
    assert done["sets"][0]["cached"] >= 1
    one = worker(
        "tokens", {"a": stripes()}, model="tiny-test", options=OPTIONS, planes={"a": [(1,)]}
    )
    assert one["sets"][0]["indices"] == [(1,)]


def test_colours_of_chosen_planes(worker: Worker, sets: list[dict[str, Any]]) -> None:
    names = [s["set"] for s in sets]
    done = worker("pca", sets=names, show=[[names[1], (1,)]], options=PcaOptions())
    (event,) = worker.events
    assert (event.data["set"], event.data["index"]) == (names[1], (1,))
    assert event.data["rgb"].shape == (120, 120, 3)
    assert set(done["explained"]) == set(names)
    assert done["fitted_tokens"] == 4 * 81
    fits = len(worker.tools.exploration.bases)
    worker("pca", sets=names, options=PcaOptions(components=(3, 1, 0), upsample="patch"))
    assert [e.data["rgb"].shape for e in worker.events] == [(9, 9, 3)] * 4
    assert len(worker.tools.exploration.bases) == fits
    one = worker("pca", sets=names, fit=[[names[0], [0]]], show=[], options=PcaOptions())
    assert one["fitted_tokens"] == 81


def test_foreground_components(worker: Worker, sets: list[dict[str, Any]]) -> None:
    name = sets[0]["set"]
    everything = worker("pca", sets=[name])["explained"][name]
    done = worker(
        "pca",
        {"labels": halves()},
        sets=[name],
        labels={name: "labels"},
        label_ids=[1],
        mask_background=True,
    )
    assert not np.allclose(done["explained"][name], everything)
    assert worker.events[0].data["rgb"][:, 60:].max() == 0


def test_points_clusters_and_export(
    worker: Worker, sets: list[dict[str, Any]], tmp_path: Path
) -> None:
    names = [s["set"] for s in sets]
    made = worker(
        "points",
        {"labels": halves()},
        sets=names,
        what="patches",
        classes={"half": {names[0]: "labels"}},
        indices={names[0]: [(0,)], names[1]: [(1,)]},
    )
    assert made["n"] == 162
    table = made["table"]
    assert table["half"].reshape(2, 81).max(1).tolist() == [2, 0]
    layout = worker("project", points=made["points"])
    assert layout["coordinates"].shape == (162, 2)
    assert layout["explained"].sum() <= 1
    groups = worker("cluster", points=made["points"], options=ClusterOptions(clusters=2))
    assert set(groups["clusters"]) == {0, 1}
    in_plot = ClusterOptions(clusters=2, space="projection")
    assert worker("cluster", points=made["points"], options=in_plot)["count"] == 2
    path = tmp_path / "points.csv"
    done = worker(
        "explore_export", points=made["points"], path=str(path), extra={"c": np.ones(162)}
    )
    assert done["rows"] == 162
    assert path.exists()


def test_what_was_clicked_is_most_alike(worker: Worker, sets: list[dict[str, Any]]) -> None:
    name, other = sets[0]["set"], sets[1]["set"]
    click = {"set": name, "index": (0,), "y": 50.0, "x": 20.0}
    near = SimilarityOptions(upsample="patch")
    done = worker(
        "similarity", positive=[click], targets=[[name, (0,)], [other, (1,)]], options=near
    )
    here, there = (e.data["score"] for e in worker.events)
    assert here.shape == (9, 9)
    assert here[3, 1] == pytest.approx(1, abs=1e-5)
    assert here.max() == pytest.approx(done["high"])
    tokens = worker.tools.exploration.sets[other].tokens((1,)).astype(np.float64)
    token = worker.tools.exploration.sets[name].tokens((0,))[3 * 9 + 1].astype(np.float64)
    by_hand = tokens @ token / np.linalg.norm(tokens, axis=1) / np.linalg.norm(token)
    assert np.allclose(there.ravel(), by_hand, atol=1e-4)


def test_a_negative_click_and_a_threshold(worker: Worker, sets: list[dict[str, Any]]) -> None:
    name = sets[0]["set"]
    options = SimilarityOptions(threshold=0.0, centred=True)
    done = worker(
        "similarity",
        positive=[{"set": name, "index": (0,), "row": 4, "column": 1}],
        negative=[{"set": name, "index": (0,), "row": 4, "column": 7}],
        targets=[[name, (0,)]],
        options=options,
    )
    labels = worker.events[0].data["labels"]
    assert labels.shape == (120, 120)
    assert (labels[62, 20], labels[62, 104]) == (1, 0)
    assert done["suggested"] == 0


def test_an_object_can_be_clicked(worker: Worker, sets: list[dict[str, Any]]) -> None:
    name = sets[0]["set"]
    made = worker("points", {"l": halves()}, sets=name, what="objects", labels={name: "l"})
    assert made["table"]["label"].tolist() == [1, 2, 1, 2]
    done = worker(
        "similarity", positive=[{"points": made["points"], "point": 1}], points=made["points"]
    )
    assert done["scores"][[1, 3]] == pytest.approx([1, 1], abs=1e-4)
    assert done["scores"][0] < done["scores"][1]


def test_separability_of_two_halves(worker: Worker, sets: list[dict[str, Any]]) -> None:
    name = sets[0]["set"]
    made = worker(
        "points",
        {"l": halves()},
        sets=[name],
        classes={"half": {name: "l"}},
        indices={name: [(0,)]},
    )
    done = worker(
        "separability", points=[made["points"]], column="half", names={1: "striped", 2: "noise"}
    )
    (result,) = done["results"]
    assert result["accuracy"] > 0.9
    assert result["table"]["class"].tolist() == ["striped", "noise"]


@pytest.mark.parametrize(
    ("kind", "payload", "match"),
    [
        ("pca", {"sets": ["t999"]}, "set 't999' is not known.*Encode the image again"),
        ("project", {"points": "p999"}, "points 'p999' are not known"),
        ("tokens", {"model": "tiny-test"}, "no image"),
        ("tokens", {"model": "tiny-test", "adapter": "half"}, "on, off or both"),
        ("pca", {"sets": []}, "nothing was chosen"),
    ],
)
def test_requests_that_make_no_sense(
    worker: Worker, kind: str, payload: dict[str, Any], match: str
) -> None:
    with pytest.raises(InputError, match=match):
        worker(kind, **payload)


def test_a_click_beside_the_image_and_other_bad_points(
    worker: Worker, sets: list[dict[str, Any]]
) -> None:
    name = sets[0]["set"]
    for click in (
        {"set": name, "index": (0,), "y": -5, "x": 3},
        {"set": name, "index": (0,), "row": 9, "column": 0},
    ):
        with pytest.raises(InputError, match="lies outside"):
            worker("similarity", positive=[click], targets=[[name, (0,)]])
    with pytest.raises(InputError, match="nothing was clicked"):
        worker("similarity", targets=[[name, (0,)]])
    for payload, match in (
        ({"what": "pixels"}, "points of 'pixels'"),
        ({"what": "objects"}, "no labels were given"),
        ({"what": "objects", "labels": {name: "nowhere"}}, "'nowhere' was not given"),
    ):
        with pytest.raises(InputError, match=match):
            worker("points", sets=[name], **payload)


def test_an_adapter_that_is_not_there_cannot_be_switched_off(worker: Worker) -> None:
    with pytest.raises(InputError, match="no LoRA adapter"):
        worker("tokens", {"image": stripes()}, model="tiny-test", options=OPTIONS, adapter="both")


def test_forgotten_sets_give_their_planes_back(worker: Worker) -> None:
    image = {"image": stripes("a third name, other noise")}
    name = worker("tokens", image, model="tiny-test", options=OPTIONS)["sets"][0]["set"]
    points = worker("points", sets=[name])["points"]
    held = worker.tools.exploration.store._held
    keys = worker.tools.exploration.sets[name].keys
    worker("explore_forget", sets=[name])
    assert all(held[key] for key in keys)  # the points still need them
    worker("explore_forget", points=[points])
    assert not any(held[key] for key in keys)


def test_a_window_can_ask_for_all_of_it() -> None:
    client = WorkerClient(warm_up=False)
    try:
        seen: list[Event] = []
        done = client.submit(
            "tokens", {"model": "tiny-test", "options": OPTIONS}, {"image": stripes(planes=1)}
        ).wait(120)
        assert done.kind == "done", done
        name = done.data["sets"][0]["set"]
        job = client.submit("pca", {"sets": [name]}, {}, seen.append)
        assert job.wait(60).kind == "done"
        assert [e.data["rgb"].shape for e in seen if e.kind == "plane"] == [(120, 120, 3)]
        points = client.submit("points", {"sets": [name]}).wait(60)
        assert points.data["table"]["image"].tolist() == ["stripes"] * 81
        click = {"set": name, "index": (0,), "y": 5, "x": 5}
        alike = client.submit("similarity", {"positive": [click], "targets": [[name, (0,)]]})
        assert alike.wait(60).data["high"] == pytest.approx(1, abs=1e-4)
    finally:
        client.close()
