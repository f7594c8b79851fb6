"""A worker that plays the jobs of the Features panel on images of 14-pixel patches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import numpy as np
from tests.widgets.fake_worker import FakeClient, FakeJob

from dinoscope.errors import InputError
from dinoscope.types import ImageInput
from dinoscope.worker.protocol import Event

PATCH = 14
DIM = 8


class FakeExplorer(FakeClient):
    """Answers at once, unless a kind is in `silent`; forgets everything when it is `restart`-ed."""

    def __init__(self) -> None:
        super().__init__()
        self.silent: set[str] = set()
        self.sets: dict[str, dict[str, Any]] = {}
        self.points: dict[str, dict[str, Any]] = {}
        self.forgotten: list[str] = []
        self._number = 0

    def restart(self) -> None:
        """As a worker that was killed: it knows nothing any more."""
        self.sets, self.points = {}, {}

    def submit(
        self,
        kind: str,
        payload: Mapping[str, Any],
        images: Mapping[str, ImageInput],
        on_event: Callable[[Event], None],
    ) -> FakeJob:
        job = super().submit(kind, payload, images, on_event)
        play = getattr(self, f"play_{kind}", None)
        if play is not None and kind not in self.silent:
            try:
                play(job)
            except InputError as error:
                job.send("error", error=error)
        return job

    def _name(self, letter: str) -> str:
        self._number += 1
        return f"{letter}{self._number}"

    def _set(self, name: str) -> dict[str, Any]:
        if name not in self.sets:
            raise InputError(f"set {name!r} is not known", hint="Encode the image again.")
        return self.sets[name]

    def play_tokens(self, job: FakeJob) -> None:
        adapters = {"on": [True], "off": [False], "both": [True, False]}[job.payload["adapter"]]
        found = []
        for name, image in job.images.items():
            planes = (job.payload.get("planes") or {}).get(name)
            indices = planes or list(product(*(range(n) for n in image.plane_shape)))
            y0, x0, y1, x1 = job.payload["options"].region or (
                0,
                0,
                image.size("Y"),
                image.size("X"),
            )
            grid = {
                "shape": (y1 - y0, x1 - x0),
                "grid": (-(-(y1 - y0) // PATCH), -(-(x1 - x0) // PATCH)),
                "step": (float(PATCH), float(PATCH)),
                "first": (y0 + (PATCH - 1) / 2, x0 + (PATCH - 1) / 2),
                "origin": (y0, x0),
            }
            for adapter in adapters:
                info = {
                    "set": self._name("t"),
                    "image": name,
                    "name": image.name,
                    "adapter": adapter,
                    "tuned": len(adapters) > 1,
                    "model": "embedded",
                    "indices": [tuple(i) for i in indices],
                    "plane_axes": image.plane_axes,
                    "dim": DIM,
                    "layers": (11,),
                    "grid": grid,
                    "zoom": 1.0,
                    "cached": 0,
                }
                self.sets[info["set"]] = info
                found.append(info)
        job.done(sets=found, notes=[])

    def play_pca(self, job: FakeJob) -> None:
        for name in job.payload["sets"]:
            info = self._set(name)
            patch = job.payload["options"].upsample == "patch"
            shape = info["grid"]["grid" if patch else "shape"]
            for index in info["indices"]:
                rgb = np.full((*shape, 3), 0.5 if info["adapter"] else 0.25, np.float32)
                job.send("plane", set=name, index=index, rgb=rgb)
        explained = {n: np.array([0.5, 0.2, 0.1]) for n in job.payload["sets"]}
        job.done(explained=explained, fitted_tokens=10, components=(0, 1, 2))

    def play_points(self, job: FakeJob) -> None:
        what = job.payload["what"]
        columns: dict[str, list[Any]] = {}
        for place, name in enumerate(job.payload["sets"]):
            info = self._set(name)
            for index in info["indices"]:
                for row in self._rows(job, what, name, info, index):
                    row |= {"set": place, "image": info["name"]}
                    row |= dict(zip(info["plane_axes"].lower(), index, strict=True))
                    for key, value in row.items():
                        columns.setdefault(key, []).append(value)
        table = {key: np.array(values) for key, values in columns.items()}
        points = self._name("p")
        n = len(table.get("set", ()))
        self.points[points] = {"n": n}
        job.done(
            points=points, what=what, n=n, dim=DIM, sets=job.payload["sets"], table=table, notes=[]
        )

    def _rows(
        self, job: FakeJob, what: str, name: str, info: dict[str, Any], index: tuple[int, ...]
    ) -> list[dict[str, Any]]:
        grid = info["grid"]
        labels = None
        for given in [job.payload.get("labels"), *(job.payload.get("classes") or {}).values()]:
            if given and name in given:
                image = job.images[given[name]]
                where = dict(zip(info["plane_axes"], index, strict=True))
                key = tuple(slice(None) if a in "YX" else where[a] for a in image.axes)
                labels = np.asarray(image.data[key])
        if what == "images":
            return [{}]
        if what == "objects":
            assert labels is not None
            rows = []
            for label in np.unique(labels[labels > 0]):
                y, x = (float(v.mean()) for v in np.nonzero(labels == label))
                area = int((labels == label).sum())
                rows.append({"label": int(label), "y": y, "x": x, "area_px": area})
            return rows
        rows = []
        for row, column in product(*(range(n) for n in grid["grid"])):
            y = grid["first"][0] + row * PATCH
            x = grid["first"][1] + column * PATCH
            found = {"row": row, "column": column, "y": y, "x": x}
            if labels is not None:
                found["group"] = int(labels[min(int(y), len(labels) - 1), int(x)])
            rows.append(found)
        return rows

    def _n(self, name: str) -> int:
        if name not in self.points:
            raise InputError(f"points {name!r} are not known", hint="Make the points again.")
        return int(self.points[name]["n"])

    def play_project(self, job: FakeJob) -> None:
        n, d = self._n(job.payload["points"]), job.payload["options"].dimensions
        pca = job.payload["options"].method == "pca"
        # On a line from left to right, so that a test knows which point lies where.
        coordinates = np.zeros((n, d), np.float32)
        coordinates[:, 0] = np.arange(n)
        coordinates[:, 1] = np.arange(n) % 5
        job.done(
            coordinates=coordinates,
            explained=np.array([0.5, 0.2, 0.1])[:d] if pca else None,
            fitted=np.ones(n, bool),
            notes=[],
        )

    def play_cluster(self, job: FakeJob) -> None:
        n = self._n(job.payload["points"])
        job.done(clusters=(np.arange(n) % 2).astype(np.int32), count=2, notes=[])

    def play_similarity(self, job: FakeJob) -> None:
        for name, index in job.payload["targets"]:
            height, width = self._set(name)["grid"]["shape"]
            click = job.payload["positive"][-1]
            self._set(click["set"])
            rows, columns = np.mgrid[:height, :width]
            far = np.hypot(rows - click["y"], columns - click["x"])
            score = (1 - far / 100).astype(np.float32)
            job.send("plane", set=name, index=tuple(index), score=score)
        points = job.payload.get("points")
        scores = None if points is None else np.linspace(0, 1, self._n(points), dtype=np.float32)
        job.done(scores=scores, low=0.1, high=1.0, suggested=0.7)

    def play_separability(self, job: FakeJob) -> None:
        results = []
        for number, points in enumerate(job.payload["points"]):
            self._n(points)
            names = sorted({str(c) for c in job.payload["classes"]} - {"", "0"})
            table = {
                "class": np.array(names, dtype=object),
                "n": np.full(len(names), 5),
                "accuracy": np.full(len(names), 0.7 + 0.2 * number),
                "silhouette": np.full(len(names), 0.3),
            }
            results.append(
                {
                    "points": points,
                    "accuracy": 0.7 + 0.2 * number,
                    "accuracy_std": 0.01,
                    "silhouette": 0.3,
                    "table": table,
                }
            )
        job.done(results=results, folds=5, notes=[])

    def play_explore_export(self, job: FakeJob) -> None:
        job.done(path=job.payload["path"], rows=self._n(job.payload["points"]), columns=3)

    def play_explore_forget(self, job: FakeJob) -> None:
        gone = [*job.payload.get("sets", ()), *job.payload.get("points", ())]
        self.forgotten += gone
        for name in gone:
            self.sets.pop(name, None)
            self.points.pop(name, None)
        job.done()
