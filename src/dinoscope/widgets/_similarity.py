"""Click on the image, see what is alike: a heat map, and labels from a threshold, live.

Cosine similarity of patch tokens to clicked ones, as in DINOSim (González-Marfil et al., 2025); the
scores are computed in the worker, the threshold here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, QTimer, Signal

from dinoscope.config import SimilarityOptions
from dinoscope.errors import DinoscopeError
from dinoscope.widgets._clicks import ImageClicks, locate
from dinoscope.widgets._client import Controller, JobHandle, LatestWins
from dinoscope.widgets._layers import current_plane, place, spatial_kwargs
from dinoscope.widgets._marks import ClickMarks
from dinoscope.widgets._results import METADATA, ResultSet, remove_layer, selection_kept
from dinoscope.widgets._tokens import TokenRequest, TokenSet, is_stale

if TYPE_CHECKING:
    from napari.layers import Layer

#: When clicks or threshold have rested so long, the planes out of view follow.
_REST_MS = 300
_BACKGROUND, _RIGHT = 0, 2


@dataclass(frozen=True)
class Click:
    """A place in one of the encoded images; `positive`: like this, else: not like this."""

    one: TokenSet
    index: tuple[int, ...]
    y: float
    x: float
    positive: bool

    @property
    def payload(self) -> dict[str, Any]:
        """As the worker takes it."""
        return {"set": self.one.id, "index": self.index, "y": self.y, "x": self.x}


class SimilarityTool(QObject):
    """Listens to clicks while it is on; its layers are results like all others."""

    #: Clicks, their layers or the scores have changed.
    changed = Signal()
    said = Signal(str, str)
    #: The worker no longer has the tokens: encode again, then call :meth:`start`.
    tokens_wanted = Signal()
    #: A threshold that the scores suggest.
    suggested = Signal(float)
    #: Scores of the points of the plot.
    scored = Signal(object)

    def __init__(self, controller: Controller, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._controller = controller
        self._viewer = controller.results.viewer
        self.options = SimilarityOptions()
        self.threshold: float | None = None
        self.clicks: list[Click] = []
        #: Points of the plot that get scores too.
        self.points = ""
        self.low, self.high = -1.0, 1.0
        self._sets: tuple[TokenSet, ...] = ()
        self._request: TokenRequest | None = None
        self._results: dict[str, ResultSet] = {}
        self._done: dict[str, set[tuple[int, ...]]] = {}
        self._contrast: dict[str, tuple[float, float]] = {}
        self._listener = ImageClicks(self._viewer, self)
        self._listener.clicked.connect(self._on_click)
        self._marks = ClickMarks(self._viewer)
        self._asker = LatestWins(self._send, self)
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(_REST_MS)
        self._rest.timeout.connect(self._on_rest)
        self._threshold_stale: set[tuple[str, tuple[int, ...]]] = set()

    # -- course --------------------------------------------------------------------------------

    @property
    def on(self) -> bool:
        return self._listener.on

    @property
    def sets(self) -> tuple[TokenSet, ...]:
        """The images that are searched."""
        return self._sets

    @property
    def request(self) -> TokenRequest | None:
        """How those images were encoded."""
        return self._request

    @property
    def ready(self) -> bool:
        """Whether a click can be answered."""
        return bool(self._sets)

    def start(self, request: TokenRequest, sets: Sequence[TokenSet]) -> None:
        """Listen to clicks on these images; clicks on images that are still there are kept."""
        if self._sets:
            self._viewer.layers.events.removed.disconnect(self._on_removed)
            self._viewer.dims.events.current_step.disconnect(self._on_slider)
        tuned = [one for one in sets if one.adapter] or list(sets)
        by_source = {id(one.source.layer): one for one in tuned}
        self._sets, self._request = tuple(tuned), request
        kept = []
        for click in self.clicks:
            one = by_source.get(id(click.one.source.layer))
            if one is not None and click.index in one.indices:
                kept.append(Click(one, click.index, click.y, click.x, click.positive))
        if len(kept) < len(self.clicks):
            self._marks.remove()
        self.clicks = kept
        self._results, self._done, self._contrast = {}, {}, {}
        self._viewer.layers.events.removed.connect(self._on_removed)
        self._viewer.dims.events.current_step.connect(self._on_slider)
        self._listener.start()
        self._marks.show(self.clicks)
        self.ask()
        self.changed.emit()

    def resume(self) -> None:
        """Listen again to clicks on what is encoded already."""
        if self._sets:
            self._listener.start()
            self.changed.emit()

    def stop(self) -> None:
        """Listen no more; the layers stay."""
        self._listener.stop()
        self.changed.emit()

    def close(self) -> None:
        """The panel goes away: the marks of the clicks go too, results stay."""
        self._asker.clear()
        self._rest.stop()
        self._listener.stop()
        self._marks.remove()
        if self._sets:
            self._viewer.layers.events.removed.disconnect(self._on_removed)
            self._viewer.dims.events.current_step.disconnect(self._on_slider)
        self._sets = ()

    def undo(self) -> None:
        """Take the last click back."""
        if self.clicks:
            self.clicks.pop()
            self._after_clicks()

    def clear(self) -> None:
        """Take all clicks back; heat map and labels go where nobody has edited them."""
        self.clicks = []
        self._after_clicks()

    def keep(self) -> Layer | None:
        """A copy of the labels as a layer of the user's; ``None`` without labels."""
        from napari.layers import Labels

        for results in self._results.values():
            layer = results.layer("similar")
            if layer is None:
                continue
            self._threshold_all()
            data = np.array(layer.data[...])
            own = Labels(
                data,
                name=f"{results.source.layer.name} · alike",
                colormap=layer.colormap,
                **spatial_kwargs(layer),
            )
            own.metadata[METADATA] = {
                "task": "similarity",
                "source": results.source.layer.name,
                "threshold": self.threshold,
                "clicks": len(self.clicks),
            }
            with selection_kept(self._viewer):
                self._viewer.add_layer(own)
            return own
        return None

    # -- clicks --------------------------------------------------------------------------------

    def add_click(self, position: Any, *, positive: bool) -> bool:
        """A click at a world position; whether it hit an encoded plane."""
        for one in reversed(self._sets):
            found = locate(self._viewer, one.source, position)
            if found is None:
                continue
            index, y, x = found
            if index not in one.indices or one.grid.patch_at(y, x) is None:
                self.said.emit("This place was not encoded: press Start again here.", "warning")
                return False
            self.clicks.append(Click(one, index, y, x, positive))
            self._after_clicks()
            return True
        return False

    def _on_click(self, position: Any, button: int, modifiers: Any) -> None:
        away = button == _RIGHT or any(str(m).lower() == "alt" for m in modifiers)
        if not self.clicks and away:
            self.said.emit("First click on what you look for; then on what it is not.", "warning")
            return
        self.add_click(position, positive=not away)

    def _after_clicks(self) -> None:
        if not any(click.positive for click in self.clicks):
            self.clicks = []
            self._asker.clear()
            self._rest.stop()
            self._remove_layers()
        self._marks.show(self.clicks)
        self.ask()
        self.changed.emit()

    def _remove_layers(self) -> None:
        for results in self._results.values():
            for task in ("similar", "similarity"):
                layer = results.layer(task)
                record = self._controller.results.record(layer) if layer is not None else None
                if record is not None and record.is_ours():
                    remove_layer(self._viewer, layer)
        self._results, self._done, self._contrast = {}, {}, {}

    # -- scores --------------------------------------------------------------------------------

    def ask(self) -> None:
        """Ask for the scores of the planes in view now, of the others after a rest."""
        if self.clicks and self._sets:
            self._done = {}
            self._asker.request("view")
            self._rest.start()

    def _in_view(self) -> list[list[Any]]:
        targets = []
        for one in self._sets:
            if one.source.layer not in self._viewer.layers:
                continue
            index = current_plane(self._viewer, one.source)
            if index in one.indices:
                targets.append([one.id, index])
        return targets

    def _missing(self) -> list[list[Any]]:
        return [
            [one.id, index]
            for one in self._sets
            for index in one.indices
            if index not in self._done.get(one.id, ()) and one.source.layer in self._viewer.layers
        ]

    def _send(self, which: str) -> JobHandle | None:
        targets = self._in_view() if which == "view" else self._missing()
        if not targets or not self.clicks:
            return None
        payload: dict[str, Any] = {
            "positive": [c.payload for c in self.clicks if c.positive],
            "negative": [c.payload for c in self.clicks if not c.positive],
            "targets": targets,
            "options": self.options,
        }
        if self.points:
            payload["points"] = self.points
        job = self._controller.submit("similarity", payload)
        job.plane.connect(self._on_plane)
        job.done.connect(self._on_done)
        job.failed.connect(self._on_failed)
        return job

    def _on_plane(self, data: Mapping[str, Any]) -> None:
        one = next((s for s in self._sets if s.id == str(data["set"])), None)
        if one is None or not self.clicks:
            return
        index = tuple(int(i) for i in data["index"])
        try:
            results = self._results_of(one)
            results.put("similarity", self._place(one, index), np.asarray(data["score"]))
            self._done.setdefault(one.id, set()).add(index)
            self._put_labels(one, index)
        except DinoscopeError as error:  # the disk is full
            self.said.emit(str(error), "error")

    def _on_done(self, data: Mapping[str, Any]) -> None:
        self.low, self.high = float(data.get("low", -1)), float(data.get("high", 1))
        for key, results in self._results.items():
            self._set_contrast(key, results)
            results.finish(clicks=len(self.clicks), threshold=self.threshold)
        scores = data.get("scores")
        if scores is not None:
            self.scored.emit(np.asarray(scores))
        if data.get("suggested") is not None:
            self.suggested.emit(float(data["suggested"]))
        self.changed.emit()

    def _on_failed(self, error: DinoscopeError) -> None:
        if is_stale(error):
            if self.points and self.points in str(error):
                self.points = ""
                self.ask()
                return
            self.tokens_wanted.emit()
            return
        self.said.emit(str(error), "error")

    def _results_of(self, one: TokenSet) -> ResultSet:
        if one.id not in self._results:
            region = self._request.options.region if self._request is not None else None
            self._results[one.id] = ResultSet(
                self._controller.results,
                one.source,
                place(one.source, plane=one.plane, region=region),
                about={"model": self._request.label if self._request is not None else ""},
            )
        return self._results[one.id]

    @staticmethod
    def _place(one: TokenSet, index: tuple[int, ...]) -> dict[str, int]:
        return dict(zip(one.source.image.plane_axes, index, strict=True))

    def _set_contrast(self, key: str, results: ResultSet) -> None:
        """Stretch the heat map over the scores, unless the user has set its limits."""
        layer = results.layer("similarity")
        if layer is None or self.high <= self.low:
            return
        now = tuple(float(v) for v in layer.contrast_limits)
        ours = self._contrast.get(key)
        if ours is not None and not np.allclose(now, ours, atol=1e-4):
            widened = now[0] <= ours[0] + 1e-4 and now[1] >= ours[1] - 1e-4
            if not widened:  # writing a plane only ever widens them
                return
        limits = (self.low, self.high)
        layer.contrast_limits_range = (-1.0, 1.0)
        layer.contrast_limits = limits
        self._contrast[key] = limits

    # -- threshold -----------------------------------------------------------------------------

    def set_threshold(self, value: float | None) -> None:
        """Label what scores at least so much; ``None``: no labels."""
        self.threshold = value
        if value is None:
            for results in self._results.values():
                layer = results.layer("similar")
                record = self._controller.results.record(layer) if layer is not None else None
                if record is not None and record.is_ours():
                    remove_layer(self._viewer, layer)
                results.let_go("similar")
            return
        in_view = {(key, tuple(index)) for key, index in self._in_view()}
        for one in self._sets:
            for index in self._done.get(one.id, ()):
                if (one.id, index) in in_view:
                    self._put_labels(one, index)
                else:
                    self._threshold_stale.add((one.id, index))
        if self._threshold_stale:
            self._rest.start()

    def _threshold_all(self) -> None:
        stale, self._threshold_stale = self._threshold_stale, set()
        for one in self._sets:
            for index in self._done.get(one.id, ()):
                if (one.id, index) in stale:
                    self._put_labels(one, index)

    def _put_labels(self, one: TokenSet, index: tuple[int, ...]) -> None:
        results = self._results.get(one.id)
        if self.threshold is None or results is None:
            return
        heat = results.layer("similarity")
        if heat is None:
            return
        where = self._place(one, index)
        score = results.placement.oriented(np.asarray(heat.data[results.placement.key(where)]))
        results.put("similar", where, (score >= self.threshold).astype(np.uint8))

    # -- following the user --------------------------------------------------------------------

    def _on_rest(self) -> None:
        self._threshold_all()
        if self._missing():
            self._asker.request("rest")

    def _on_slider(self, event: Any = None) -> None:
        view = self._in_view()
        if self.clicks and any(index not in self._done.get(key, ()) for key, index in view):
            self._asker.request("view")
            self._rest.start()

    def _on_removed(self, event: Any) -> None:
        layer = event.value
        if any(layer in one.source.layers for one in self._sets):
            self._asker.clear()
            self._rest.stop()
            self._sets = tuple(s for s in self._sets if layer not in s.source.layers)
            self.clicks = [c for c in self.clicks if layer not in c.one.source.layers]
            self._marks.show(self.clicks)
            if not self._sets:
                self._viewer.layers.events.removed.disconnect(self._on_removed)
                self._viewer.dims.events.current_step.disconnect(self._on_slider)
                self._listener.stop()
            self.said.emit(f"{layer.name!r} was removed.", "warning")
            self.changed.emit()
