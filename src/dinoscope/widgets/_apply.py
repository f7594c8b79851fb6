"""Taking the classifier to whole stacks, other images and folders, and saving it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.errors import InputError
from dinoscope.widgets._annotator import Annotator
from dinoscope.widgets._chain import Ask, Steps
from dinoscope.widgets._layers import Source, place
from dinoscope.widgets._results import ResultSet

#: Files that a folder is searched for.
IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".npy", ".zarr")
_DONE = "classes"


class Applier:
    """Makes the steps of each way of applying; a :class:`Chain` runs them.

    Parameters
    ----------
    annotator : Annotator
        Has the session.
    """

    def __init__(self, annotator: Annotator) -> None:
        self._annotator = annotator

    def to_layers(self, sources: Sequence[Source]) -> Steps:
        """Every plane of some images, as result layers with 0 = background.

        Raises
        ------
        InputError
            There is no classifier, or no image.
        """
        self._need_classifier()
        if not sources:
            raise InputError("no image is chosen", hint="Tick at least one.")
        annotator = self._annotator
        keyed = {str(source.layer.unique_id): source for source in sources}
        sets = {
            key: ResultSet(
                annotator.controller.results,
                source,
                place(source),
                about={"model": annotator.session.model, "made by": "annotations"},
                tasks=("semantic",),
            )
            for key, source in keyed.items()
        }
        names = annotator.classes.names

        def take(data: Mapping[str, Any]) -> None:
            results = sets[str(data["source"])]
            axes = results.source.image.plane_axes
            index = dict(zip(axes, (int(i) for i in data["index"]), strict=True))
            # Codes of the preview begin at 1 = background.
            results.put("semantic", index, np.asarray(data["labels"], np.uint8) - np.uint8(1))
            results.name_classes(names)

        def steps() -> Steps:
            finished = False
            try:
                yield from self._strokes()
                payload = {"session": annotator.session.session}
                images = {key: source.image for key, source in keyed.items()}
                yield Ask("annotate_apply", payload, images, on_plane=take)
                for results in sets.values():
                    results.finish(classes=names)
                finished = True
            finally:
                if not finished:
                    for results in sets.values():
                        results.roll_back()
            images_text = "1 image" if len(keyed) == 1 else f"{len(keyed)} images"
            return f"Done: {images_text}, 0 = background. Layers '… · {_DONE}'."

        return steps()

    def to_folder(self, folder: Path, output: Path) -> Steps:
        """Every image file of a folder; writes ``STEM_semantic.tif`` with 0 = background.

        Raises
        ------
        InputError
            There is no classifier, or no image in the folder.
        """
        self._need_classifier()
        files = sorted(
            str(path) for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES
        )
        if not files:
            raise InputError(f"{str(folder)!r} holds no image", expected=", ".join(IMAGE_SUFFIXES))

        def steps() -> Steps:
            yield from self._strokes()
            payload = {
                "session": self._annotator.session.session,
                "files": files,
                "output": str(output),
            }
            data = yield Ask("annotate_apply", payload)
            written = data.get("files") or files
            return f"Done: {len(written)} files in {output}."

        return steps()

    def save(self, path: Path) -> Steps:
        """Save the classifier, to go on with it elsewhere.

        Raises
        ------
        InputError
            There is no classifier.
        """
        self._need_classifier()

        def steps() -> Steps:
            yield from self._strokes()
            payload = {"session": self._annotator.session.session, "path": str(path)}
            data = yield Ask("annotate_save", payload)
            return f"Saved {data.get('path', path)}."

        return steps()

    def _strokes(self) -> Any:
        """The worker may be a new one, or not know the last stroke."""
        session = self._annotator.session
        for one in session.stroke_values():
            yield Ask("annotate_strokes", {"session": session.session, **one})

    def _need_classifier(self) -> None:
        if self._annotator.classes_painted < 2 or not self._annotator.session.session:
            raise InputError(
                "there is no classifier yet", expected="strokes of at least two classes"
            )


def other_sources(annotator: Annotator, layers: Sequence[Any]) -> list[Source]:
    """The images among layers, those that cannot be understood left out."""
    from dinoscope.errors import DinoscopeError
    from dinoscope.widgets._layers import make_source

    found = []
    for layer in layers:
        image = annotator.images.get(str(layer.unique_id))
        if image is not None:
            found.append(image.source)
            continue
        try:
            found.append(make_source([layer]))
        except DinoscopeError:
            continue
    return found
