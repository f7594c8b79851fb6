"""The Features panel: what the network sees, as colours, as points, as likeness, as numbers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QWidget

from dinoscope.errors import DinoscopeError, InputError
from dinoscope.widgets._chain import Ask, Chain, Steps
from dinoscope.widgets._choices import ScopePicker
from dinoscope.widgets._client import Controller
from dinoscope.widgets._featureforms import (
    MODES,
    ColourForm,
    ModeBar,
    OtherImages,
    PlotForm,
    TokenForm,
)
from dinoscope.widgets._layers import Source, current_plane, make_source, visible_region
from dinoscope.widgets._linked import LinkedPlot
from dinoscope.widgets._models import ModelPicker
from dinoscope.widgets._numbers import NumbersForm, separability_steps
from dinoscope.widgets._panel import Panel
from dinoscope.widgets._pcarun import PcaRequest, pca_steps
from dinoscope.widgets._plotactions import PlotActions
from dinoscope.widgets._points import (
    PointRequest,
    PointSet,
    cluster_steps,
    label_steps,
    point_steps,
)
from dinoscope.widgets._run import Outcome
from dinoscope.widgets._runbar import RunBar
from dinoscope.widgets._similarform import SimilarForm
from dinoscope.widgets._similarity import SimilarityTool
from dinoscope.widgets._sources import SourcePicker
from dinoscope.widgets._style import Fold, section
from dinoscope.widgets._tokens import Encoder, TokenRequest, TokenSet, encoded

if TYPE_CHECKING:
    from napari.viewer import Viewer

#: Other components are shown when the user has chosen so long ago.
_REST_MS = 400


class FeaturesPanel(Panel):
    """Look at the features of a model.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Given by napari (by the parameter's name).
    controller : Controller, optional
        The viewer's own when not given.
    """

    def __init__(self, napari_viewer: Viewer, controller: Controller | None = None) -> None:
        super().__init__(napari_viewer, controller)
        self.encoder = Encoder(self._sets_in_use)
        self.linked = LinkedPlot(self.viewer, self)
        self.similarity = SimilarityTool(self.controller, self)
        self.actions = PlotActions(self.linked, self)
        self._chain: Chain | None = None
        #: What the colours that are shown were made of.
        self._coloured: tuple[Any, ...] = ()
        self._plotted: TokenRequest | None = None
        self._again = QTimer(self)
        self._again.setSingleShot(True)
        self._again.setInterval(_REST_MS)
        self._again.timeout.connect(self._colour_again)
        self._build()
        self._connect()
        self._on_source()
        self._on_mode(self.modes.mode)

    # -- layout --------------------------------------------------------------------------------

    def _build(self) -> None:
        card, rows = section("Image")
        self.source = SourcePicker(self.viewer)
        self.others = OtherImages(self.viewer)
        self.others_fold = Fold("Together with", "Other images in the same plot.", self.others)
        self.scope = ScopePicker()
        for widget in (self.source, self.others_fold, self.scope):
            rows.addWidget(widget)
        self.body.addWidget(card)

        card, rows = section("Model")
        self.model = ModelPicker(self.controller)
        self.tokens = TokenForm()
        rows.addWidget(self.model)
        rows.addWidget(self.tokens)
        self.body.addWidget(card)

        card, rows = section("")
        self.modes = ModeBar()
        self.colours = ColourForm(self.viewer)
        self.plot = PlotForm(self.viewer)
        self.similar = SimilarForm(self.similarity)
        self.numbers = NumbersForm()
        self.forms: dict[str, QWidget] = {
            "colours": self.colours,
            "plot": self.plot,
            "similar": self.similar,
            "numbers": self.numbers,
        }
        rows.addWidget(self.modes)
        for widget in self.forms.values():
            rows.addWidget(widget)
        self.body.addWidget(card)
        self.body.addStretch(1)
        self.runbar = RunBar("Show colours", "")
        self.runbar.cost.hide()
        self.footer.addWidget(self.runbar)

    def _connect(self) -> None:
        self.source.changed.connect(self._on_source)
        self.others.offered.connect(self.others_fold.setVisible)
        self.colours.changed.connect(self._on_colours)
        self.modes.changed.connect(self._on_mode)
        self.runbar.run_clicked.connect(self.run)
        self.runbar.cancel_clicked.connect(self.cancel)
        self.controller.model_chosen.connect(self.model.choose)
        if self.controller.newest_model:
            self.model.choose(self.controller.newest_model)
        self.controller.state_changed.connect(self._on_state)
        self.linked.said.connect(self.runbar.say)
        self.linked.colours_wanted.connect(self._on_colours_wanted)
        self.linked.shown.connect(self._on_plot_shown)
        self.actions.said.connect(self.runbar.say)
        self.actions.run_wanted.connect(self._on_action)
        self.actions.classes_changed.connect(self._offer_classes)
        self.actions.strokes_made.connect(self._on_strokes_made)
        self.similarity.said.connect(self.runbar.say)
        self.similarity.tokens_wanted.connect(self._on_tokens_wanted)
        self.similarity.scored.connect(self._on_scored)
        self.similar.stop_clicked.connect(self.similarity.stop)
        self.plot.reopen.clicked.connect(self.linked.reopen)
        events = self.viewer.layers.events
        for event in (events.inserted, events.removed, events.renamed):
            event.connect(self._offer_classes)

    def on_teardown(self) -> None:
        self._again.stop()
        if self._chain is not None:
            self._chain.close()
        self.similarity.close()
        self.linked.forget()
        if self.runbar.busy:
            self.runbar.stop("Stopped: the panel was closed.")
        events = self.viewer.layers.events
        for event in (events.inserted, events.removed, events.renamed):
            event.disconnect(self._offer_classes)
        for part in (self.source, self.others):
            part.disconnect_viewer()
        for combo in (self.colours.labels, self.plot.objects):
            combo.disconnect_viewer()
        self.model.disconnect_controller()
        self.controller.model_chosen.disconnect(self.model.choose)
        self.controller.state_changed.disconnect(self._on_state)

    # -- what is run ---------------------------------------------------------------------------

    def request(self) -> TokenRequest:
        """What would be encoded now.

        Raises
        ------
        DinoscopeError
            Something is missing or contradicts itself.
        """
        source = self.source.source()
        others = [make_source([layer]) for layer in self._other_layers()]
        scope = self.scope.scope
        region = None
        if scope == "region":
            if others:
                raise InputError(
                    "the visible region belongs to one image",
                    expected="one image, or another scope",
                    hint="Untick the images under Together with.",
                )
            region = visible_region(self.viewer, source)
        sources = (source, *others)
        planes = None
        if scope != "stack":
            planes = tuple(current_plane(self.viewer, s) for s in sources)
        return TokenRequest(
            sources,
            self.model.model,
            self.model.label,
            self.tokens.options(region),
            adapter=self.tokens.adapter.key,
            planes=planes,
            download=self.model.download_allowed,
        )

    def run(self) -> None:
        """Do what the button says; everything else happens in events."""
        if self.busy:
            return
        mode = self.modes.mode
        try:
            if mode == "numbers":
                if self.linked.points is None:
                    raise InputError(
                        "there are no points to measure", hint="Make a plot first (under Plot)."
                    )
                self._begin(self._number_steps(self.linked.points), "Measuring")
                return
            request = self.request()
            steps = {
                "colours": self._colour_steps,
                "plot": self._plot_steps,
                "similar": self._similar_steps,
            }[mode](request)
        except DinoscopeError as error:
            self._complain(str(error))
            return
        what = f"{request.sources[0].layer.name}: {request.label}"
        self._begin(steps, what, request.sources)

    @property
    def busy(self) -> bool:
        """Whether a run goes on."""
        return self._chain is not None and self._chain.running

    def cancel(self) -> None:
        """Stop within a second."""
        if self._chain is not None and self._chain.running:
            self.runbar.cancelling()
            self._chain.cancel()

    def _begin(self, steps: Steps, what: str, sources: tuple[Source, ...] = ()) -> None:
        if self.busy:
            steps.close()
            self.runbar.say("Something else runs: wait, or press Cancel.", "warning")
            return
        layers = [layer for source in sources for layer in source.layers]
        chain = self._chain = Chain(self.controller, steps, layers)
        chain.progress.connect(self.runbar.show_progress)
        chain.ended.connect(self._on_ended)
        self.runbar.start(what)
        chain.start()
        waiting = self.controller.waiting_text()
        if waiting and self.busy:
            self.runbar.say(waiting)

    def _on_ended(self, outcome: Outcome) -> None:
        from napari.utils.notifications import show_error, show_info

        text = outcome.text
        if outcome.kind == "error" and "not known" in text:
            # What a worker held went with it; only what was asked for last is made again unasked.
            text = "The worker was started anew meanwhile: make the plot again."
        self.runbar.stop(text, "error" if outcome.kind == "error" else "")
        if outcome.kind == "error":
            show_error(text)
        elif outcome.kind == "done":
            show_info(outcome.text)

    # -- steps ---------------------------------------------------------------------------------

    def _sets_in_use(self) -> set[str]:
        points = self.linked.points
        used = {one.id for one in self.similarity.sets}
        if points is not None:
            used |= {one.id for variant in points.variants for one in variant.sets}
        return used

    def _colour_steps(self, request: TokenRequest) -> Steps:
        pca = PcaRequest(
            request,
            self.colours.options(),
            fit=self.colours.fit.key,
            labels=self.colours.labels.layer,
            label_id=self.colours.only.value() or None,
            mask_background=self.colours.mask.isChecked(),
        )

        def steps() -> Steps:
            text = yield from pca_steps(self.controller, self.encoder, pca)
            self._coloured = request.key
            return text

        return steps()

    def _plot_steps(self, request: TokenRequest) -> Steps:
        wanted = PointRequest(
            request, self.plot.what.key, self.plot.options(), self.plot.objects.layer
        )

        def steps() -> Steps:
            points = yield from point_steps(self.encoder, wanted)
            before = self.linked.points
            self.linked.show(points)
            if before is not None:
                yield Ask("explore_forget", {"points": [v.points for v in before.variants]})
            self._offer_classes()
            self.numbers.view.clear()
            self._plotted = request
            self._score_points()
            self.similarity.ask()
            return f"Done: {points.count:,} {points.what if points.what != 'images' else 'planes'}."

        return steps()

    def _similar_steps(self, request: TokenRequest) -> Steps:
        def use(
            sets: tuple[TokenSet, ...],
        ) -> Generator[Ask, Mapping[str, Any], tuple[TokenSet, ...]]:
            yield from ()
            return sets

        def steps() -> Steps:
            sets: tuple[TokenSet, ...] = yield from encoded(self.encoder, request, use)
            self._score_points(request)
            self.similarity.start(request, sets)
            return "Ready: click in the image on what you look for."

        return steps()

    def _score_points(self, request: TokenRequest | None = None) -> None:
        """Let the points of the plot be compared with the clicks, where both are of one kind."""
        points, plotted = self.linked.points, self._plotted
        searched = request or self.similarity.request
        self.similarity.points = ""
        if points is not None and plotted is not None and searched is not None:
            alike = ("model", "options", "adapter")
            if all(getattr(plotted, name) == getattr(searched, name) for name in alike):
                self.similarity.points = points.variants[-1].points

    def _number_steps(self, points: PointSet) -> Steps:
        key = self.numbers.classes.key
        layer = self.linked.layer_of(key)
        groups = self.numbers.by_plane.isChecked()

        def steps() -> Steps:
            results = yield from separability_steps(points, key, layer, groups=groups)
            self.numbers.view.show_results(results)
            return "Done: " + self.numbers.view.line.text()

        return steps()

    def _on_colours_wanted(self, key: str) -> None:
        """Clusters, or labels as they are now: the worker knows."""
        points = self.linked.points
        kind, _, name = key.partition(":")
        if points is None:
            return

        def steps() -> Steps:
            if kind == "cluster":
                text = yield from cluster_steps(points, self.plot.cluster_options(name))
            else:
                layer = self.linked.layer_of(key)
                if layer is None:
                    raise InputError("the Labels layer is gone", hint="Choose another one.")
                points.columns[f"labels:{layer.unique_id}"] = yield from label_steps(points, layer)
                text = f"Done: coloured by {layer.name!r}."
            self.linked.colour()
            return text

        self._begin(steps(), "Colouring the points")

    def _on_action(self, steps: Any, what: str) -> None:
        self._begin(steps, what)

    def _on_strokes_made(self, offered: Any) -> None:
        """The Annotate panel takes them; it is opened where it is not."""
        from dinoscope.widgets.annotate import AnnotatePanel

        if not self.controller.panels(AnnotatePanel):
            window = getattr(self.viewer, "window", None)
            if window is None:
                self._complain("Open the Annotate panel first, then hand the classes over.")
                return
            window.add_plugin_dock_widget("napari-dinoscope", "Annotate")
        self.controller.strokes_offered.emit(offered)

    def _on_tokens_wanted(self) -> None:
        """The worker was a new one: encode again, the clicks stay."""
        self.encoder.forget()
        try:
            request = self.request()
        except DinoscopeError as error:
            self._complain(str(error))
            return
        self._begin(self._similar_steps(request), "Encoding again", request.sources)

    def _on_scored(self, scores: np.ndarray) -> None:
        points = self.linked.points
        if points is None or len(scores) != points.count:
            return
        first = "similarity" not in points.columns
        points.columns["similarity"] = scores
        if first:
            self.linked.offer_colours()
        if self.linked.dock is not None and self.linked.dock.colour_key == "similarity":
            self.linked.colour()

    # -- following the user --------------------------------------------------------------------

    def _other_layers(self) -> list[Any]:
        return [x for x in self.others.layers if x is not self.source.layer]

    def _on_source(self) -> None:
        self.others.leave_out(self.source.layer)
        try:
            source = self.source.source()
        except DinoscopeError:
            self.runbar.run.setEnabled(self.source.layer is not None and not self.runbar.busy)
            return
        self.runbar.run.setEnabled(not self.runbar.busy)
        self.scope.offer(math.prod(source.image.plane_shape))

    def _on_mode(self, mode: str) -> None:
        for name, widget in self.forms.items():
            widget.setVisible(name == mode)
        _, run, tip = MODES[mode]
        self.runbar.run.setText(run)
        self.runbar.run.setToolTip(tip)
        if mode != "similar":
            self.similarity.stop()
        elif self.similarity.ready and self.similarity.clicks:
            self.similarity.resume()

    def _on_colours(self) -> None:
        """Other components of what is coloured already: at once, for nothing is encoded."""
        self._again.start()

    def _colour_again(self) -> None:
        with contextlib.suppress(DinoscopeError):
            shown = self.modes.mode == "colours" and self._coloured and not self.busy
            if shown and self.request().key == self._coloured:
                self.run()

    def _on_state(self, state: str) -> None:
        if state == "stopped":
            self.encoder.forget()

    def _on_plot_shown(self, shown: bool) -> None:
        if self._alive_now():
            self.plot.reopen.setVisible(not shown and self.linked.points is not None)

    def _offer_classes(self, event: Any = None) -> None:
        self.numbers.offer(self.linked.points, list(self.viewer.layers))

    def hideEvent(self, event: Any) -> None:
        if self._alive_now():
            self.similarity.stop()
        super().hideEvent(event)
