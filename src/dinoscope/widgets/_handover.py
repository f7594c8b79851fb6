"""Classes found elsewhere (a lasso in the Features panel) become strokes that can be undone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dinoscope.widgets._annotator import Annotator
from dinoscope.widgets._layers import Source

Planes = Sequence[tuple[Source, tuple[int, ...], np.ndarray]]


def take_strokes(annotator: Annotator, names: Sequence[str], planes: Planes) -> int:
    """Paint classes by name; what the user painted stays. Returns the number of new pixels.

    Parameters
    ----------
    names : sequence of str
        Of the values 1, 2, … of the planes; classes that are not known are added.
    planes : sequence of (source, index, plane)
        `plane` is (Y, X), 0 where there is nothing to paint.

    Raises
    ------
    InputError
        There are too many classes.
    """
    codes = np.zeros(256, np.uint8)
    for number, name in enumerate(names, start=1):
        known = annotator.classes.names
        row = known.index(name) if name in known else annotator.classes.add(name)
        codes[number] = annotator.classes.code(row)
    count = 0
    image = None
    for source, index, plane in planes:
        image = annotator.start(source, activate=False)
        free = image.plane("scribbles", index) == 0
        flat = np.flatnonzero((plane > 0) & free)
        image.edit("scribbles", index, flat, codes[plane.reshape(-1)[flat]])
        annotator.look(image, index)
        count += len(flat)
    for one in annotator.images.values():
        one.recolour(annotator.classes)
    if image is not None:
        annotator.activate(image)
    return count
