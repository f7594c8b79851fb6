"""Tokens as colours: the steps of the run, and the RGB layers that it makes."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dinoscope.config import PcaOptions
from dinoscope.errors import InputError
from dinoscope.widgets._chain import Ask, Steps
from dinoscope.widgets._client import Controller
from dinoscope.widgets._grids import place_grid
from dinoscope.widgets._layers import current_plane, place
from dinoscope.widgets._results import ResultSet
from dinoscope.widgets._tokens import Encoder, TokenRequest, TokenSet, encoded, label_image

if TYPE_CHECKING:
    from napari.layers import Layer

#: What the components are found in.
FIT = {
    "all": "everything shown",
    "plane": "the plane in view",
    "labels": "under labels",
}


@dataclass(frozen=True)
class PcaRequest:
    """What is coloured, and what the components are found in (a key of :data:`FIT`)."""

    tokens: TokenRequest
    options: PcaOptions
    fit: str = "all"
    labels: Layer | None = None
    label_id: int | None = None
    mask_background: bool = False


def pca_steps(controller: Controller, encoder: Encoder, request: PcaRequest) -> Steps:
    """Encode, fit, colour; RGB layers appear plane by plane.

    Raises
    ------
    DinoscopeError
        What the worker says, or labels that do not fit.
    """
    colours = _Colours(controller, request)
    try:
        text: str = yield from encoded(encoder, request.tokens, colours.run)
    finally:
        colours.let_go()
    return text


class _Colours:
    """Takes the planes of one run."""

    def __init__(self, controller: Controller, request: PcaRequest) -> None:
        self._controller = controller
        self._request = request
        self._open: dict[str, ResultSet] = {}
        self._axes: dict[str, str] = {}
        self._finished = False

    def run(self, sets: Sequence[TokenSet]) -> Generator[Ask, Mapping[str, Any], str]:
        request = self._request
        # Both models beside each other get layers of their own; one alone has the plain name.
        several = len({s.adapter for s in sets}) > 1
        self._open = {s.id: self._results(s, s.variant if several else "") for s in sets}
        self._axes = {s.id: s.source.image.plane_axes for s in sets}
        payload: dict[str, Any] = {"sets": [s.id for s in sets], "options": request.options}
        images = {}
        if request.fit == "plane":
            payload["fit"] = self._planes_in_view(sets)
        elif request.fit == "labels":
            if request.labels is None:
                raise InputError("no Labels layer is chosen", hint="Choose one under Fit on.")
            first = sets[0].source
            images["labels"] = label_image(request.labels, first)
            payload["labels"] = {s.id: "labels" for s in sets if s.source is first}
            payload["fit"] = [[s.id, i] for s in sets if s.source is first for i in s.indices]
            payload["mask_background"] = request.mask_background
            if request.label_id is not None:
                payload["label_ids"] = [request.label_id]
        data = yield Ask("pca", payload, images, self._on_plane)
        explained = {key: np.asarray(value) for key, value in data["explained"].items()}
        for one in sets:
            shares = explained.get(one.id)
            self._open[one.id].finish(
                components=list(request.options.components),
                explained=None if shares is None else [float(x) for x in shares],
            )
        self._finished = True
        return _text(request.options, sets, explained)

    def let_go(self) -> None:
        """Earlier colours come back when the run did not finish."""
        if not self._finished:
            for results in self._open.values():
                results.roll_back()

    def _planes_in_view(self, sets: Sequence[TokenSet]) -> list[list[Any]]:
        first = sets[0].source
        viewer = self._controller.results.viewer
        return [[s.id, current_plane(viewer, first)] for s in sets if s.source is first]

    def _results(self, one: TokenSet, group: str) -> ResultSet:
        options = self._request.options
        if options.upsample == "patch":
            placement = place_grid(one.source, one.grid, plane=one.plane)
        else:
            region = self._request.tokens.options.region
            placement = place(one.source, plane=one.plane, region=region)
        about = {
            "model": self._request.tokens.label,
            "adapter": one.adapter,
            "layers": self._request.tokens.options.layers,
        }
        return ResultSet(self._controller.results, one.source, placement, group=group, about=about)

    def _on_plane(self, data: Mapping[str, Any]) -> None:
        set_id = str(data["set"])
        place_of = dict(zip(self._axes[set_id], map(int, data["index"]), strict=True))
        self._open[set_id].put("pca", place_of, np.asarray(data["rgb"], np.float32))


def _text(
    options: PcaOptions, sets: Sequence[TokenSet], explained: Mapping[str, np.ndarray]
) -> str:
    parts = []
    for one in sets:
        shares = explained.get(one.id)
        if shares is None:
            continue
        of = "" if not one.variant else f" ({one.variant})"
        line = " + ".join(f"{100 * shares[c]:.0f}" for c in options.components if c < len(shares))
        parts.append(f"{line} %{of}")
    unique = list(dict.fromkeys(parts))
    return "Done: red, green and blue hold " + ", ".join(unique) + " of the variance."
