"""The base of all panels: scrolls, tabs itself with its siblings, and goes away without a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtWidgets import (
    QDockWidget,
    QFrame,
    QMainWindow,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from dinoscope.widgets._client import Controller, controller_for
from dinoscope.widgets._style import style_sheet

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from dinoscope.widgets._runbar import RunBar

MINIMUM_WIDTH = 340


class Panel(QWidget):
    """A dock widget's content: `body` scrolls, `footer` stays in sight.

    Parameters
    ----------
    viewer : napari.Viewer
        Given by napari.
    controller : Controller, optional
        The viewer's own when not given.
    """

    #: Made by each panel, in its footer.
    runbar: RunBar

    def __init__(self, viewer: Viewer, controller: Controller | None = None) -> None:
        # Events may come before the attributes below exist.
        self._alive = False
        super().__init__()
        self.viewer = viewer
        self.controller = controller or controller_for(viewer)
        self.setMinimumWidth(MINIMUM_WIDTH)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)

        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(0)
        content = QWidget()
        self.body = QVBoxLayout(content)
        self.body.setContentsMargins(6, 6, 6, 6)
        self.body.setSpacing(8)
        self.scroll = QScrollArea()
        self.scroll.setWidgetResizable(True)
        self.scroll.setFrameShape(QFrame.Shape.NoFrame)
        self.scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.scroll.setWidget(content)
        content.installEventFilter(self)
        outer.addWidget(self.scroll, 1)
        foot = QWidget()
        foot.setObjectName("footer")
        self.footer = QVBoxLayout(foot)
        self.footer.setContentsMargins(8, 8, 8, 8)
        self.footer.setSpacing(6)
        outer.addWidget(foot)

        self._restyle()
        self.viewer.events.theme.connect(self._restyle)
        self.controller.attach(self)
        self._alive = True
        self._warmed = False

    def _complain(self, text: str) -> None:
        """Say what is wrong with a request, in the panel and as napari does."""
        from napari.utils.notifications import show_warning

        self.runbar.say(text, "error")
        show_warning(text)

    # -- lifecycle -----------------------------------------------------------------------------

    def teardown(self) -> None:
        """Disconnect and stop everything; called when the dock is closed, safe to call again."""
        if not self._alive:
            return
        self._alive = False
        self.viewer.events.theme.disconnect(self._restyle)
        self.on_teardown()
        self.controller.detach(self)

    def on_teardown(self) -> None:
        """What a panel has to take back: connections, timers, jobs, layers of its own."""

    def event(self, event: QEvent) -> bool:
        if self._alive_now() and event.type() == QEvent.Type.ParentChange:
            if isinstance(self.parent(), QDockWidget):
                QTimer.singleShot(0, self._tab_with_siblings)
            elif self.parent() is None:
                self.teardown()
        return super().event(event)

    def showEvent(self, event: Any) -> None:
        super().showEvent(event)
        if self._alive_now() and not self._warmed:
            self._warmed = True
            # After the panel is on the screen: starting a process must not delay it.
            QTimer.singleShot(50, self._warm_up)

    def eventFilter(self, watched: Any, event: QEvent) -> bool:
        """Keep the panel wide enough for its content: it does not scroll sideways."""
        if self._alive_now() and event.type() == QEvent.Type.LayoutRequest:
            bar = self.scroll.verticalScrollBar().sizeHint().width()
            wanted = max(MINIMUM_WIDTH, watched.minimumSizeHint().width() + bar + 2)
            if wanted != self.minimumWidth():
                self.setMinimumWidth(wanted)
        return super().eventFilter(watched, event)

    def _alive_now(self) -> bool:
        return bool(getattr(self, "_alive", False))

    def _warm_up(self) -> None:
        if self._alive:
            self.controller.warm_up()

    def _restyle(self, event: Any = None) -> None:
        self.setStyleSheet(style_sheet(self.viewer))

    def _tab_with_siblings(self) -> None:
        """Panels share one place: napari ignores the manifest's wish for tabs."""
        dock = self.parent()
        if not self._alive_now() or not isinstance(dock, QDockWidget):
            return
        main = dock.parent()
        if not isinstance(main, QMainWindow):
            return
        for sibling in self.controller.panels(Panel):
            other = sibling.parent()
            if (
                sibling is not self
                and isinstance(other, QDockWidget)
                and other.parent() is main
                and not other.isFloating()
            ):
                main.tabifyDockWidget(other, dock)
                dock.show()
                dock.raise_()
                break
