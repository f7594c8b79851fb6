"""What takes long in the Annotate panel, one at a time: improving, applying, saving."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal

from dinoscope.errors import DinoscopeError
from dinoscope.widgets._annotator import Annotator
from dinoscope.widgets._apply import Applier, other_sources
from dinoscope.widgets._applycard import ApplyCard
from dinoscope.widgets._chain import Chain, Steps
from dinoscope.widgets._improve import Improver
from dinoscope.widgets._results import METADATA
from dinoscope.widgets._runbar import RunBar

if TYPE_CHECKING:
    from napari.viewer import Viewer


class LongRuns(QObject):
    """Binds the run bar to whatever runs.

    Parameters
    ----------
    runbar : RunBar
        Progress, time left, Cancel.
    improver : Improver
        The deep loop.
    card : ApplyCard
        The buttons of applying.
    """

    failed = Signal(str)
    #: Something began or ended.
    busy_changed = Signal(bool)

    def __init__(
        self,
        viewer: Viewer,
        annotator: Annotator,
        improver: Improver,
        card: ApplyCard,
        runbar: RunBar,
        parent: QObject,
    ) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._annotator = annotator
        self._improver = improver
        self._card = card
        self._runbar = runbar
        self._applier = Applier(annotator)
        self._chain: Chain | None = None
        card.image_clicked.connect(self._on_image)
        card.others_clicked.connect(self._on_others)
        card.folder_clicked.connect(self._on_folder)
        card.save_clicked.connect(self._on_save)
        runbar.cancel_clicked.connect(self.cancel)
        improver.progress.connect(runbar.show_progress)
        improver.started.connect(self._on_improving)
        improver.ended.connect(self._on_ended)

    @property
    def busy(self) -> bool:
        """Whether something runs."""
        return self._improver.running or (self._chain is not None and self._chain.running)

    def close(self) -> None:
        """The panel goes away."""
        if self._chain is not None:
            self._chain.close()

    def improve(self) -> None:
        """Begin a round of improvement, or go on with one that was interrupted."""
        self._try(lambda: self._improver.start(resume=self._improver.interrupted))

    def cancel(self) -> None:
        """Stop within a second."""
        if self.busy:
            self._runbar.cancelling()
        self._improver.cancel()
        if self._chain is not None and self._chain.running:
            self._chain.cancel()

    def _on_improving(self) -> None:
        self._runbar.start("Improving")
        self.busy_changed.emit(True)

    def _on_image(self) -> None:
        image = self._annotator.current
        sources = [image.source] if image is not None else []
        self._begin(lambda: self._applier.to_layers(sources), "Applying to the image")

    def _on_others(self) -> None:
        layers = [
            layer
            for layer in self._viewer.layers
            if layer._type_string == "image" and METADATA not in layer.metadata
        ]
        self._begin(
            lambda: self._applier.to_layers(other_sources(self._annotator, layers)),
            "Applying to all images",
        )

    def _on_folder(self) -> None:
        folder = self._card.ask_folder("Images to label")
        output = self._card.ask_folder("Where the results go") if folder else ""
        if output:
            self._begin(
                lambda: self._applier.to_folder(Path(folder), Path(output)),
                "Applying to the folder",
            )

    def _on_save(self) -> None:
        path = self._card.ask_file()
        if path:
            self._begin(lambda: self._applier.save(Path(path)), "Saving the classifier")

    def _begin(self, make: Callable[[], Steps], what: str) -> None:
        if self.busy:
            self.failed.emit("Something else runs: wait, or press Cancel.")
            return
        self._annotator.flush()
        self._try(lambda: self._run(make(), what))

    def _run(self, steps: Steps, what: str) -> None:
        chain = self._chain = Chain(self._annotator.controller, steps)
        chain.progress.connect(self._runbar.show_progress)
        chain.ended.connect(self._on_ended)
        self._runbar.start(what)
        self.busy_changed.emit(True)
        chain.start()

    def _try(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except DinoscopeError as error:
            self.failed.emit(str(error))

    def _on_ended(self, outcome: Any) -> None:
        from napari.utils.notifications import show_error, show_info

        self._runbar.stop(outcome.text, "error" if outcome.kind == "error" else "")
        self.busy_changed.emit(False)
        if outcome.kind == "error":
            show_error(outcome.text)
        elif outcome.kind == "done":
            show_info(outcome.text)
