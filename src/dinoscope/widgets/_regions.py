"""In which pieces a plane is previewed: what the user sees first, then the rest around it."""

from __future__ import annotations

from itertools import product

#: ``(y0, x0, y1, x1)`` as elsewhere in the panels and in the jobs, ends excluded.
Region = tuple[int, int, int, int]

#: Planes up to this size are predicted in one piece.
WHOLE_PIXELS = 1536 * 1536
#: Side of a piece. Between two pieces a newer stroke gets its turn.
BLOCK_PX = 1024
#: Larger planes are first labelled coarsely, all of them, where all of them is in view.
OVERVIEW_PIXELS = 3072 * 3072


def pieces(shape: tuple[int, int], seen: Region | None) -> tuple[Region | None, ...]:
    """The order in which a plane is previewed.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns of the plane.
    seen : tuple of int, optional
        The part that is in view.

    Returns
    -------
    tuple
        Regions that cover the plane; a single ``None`` stands for the whole of it.

    Examples
    --------
    >>> pieces((512, 512), (0, 0, 100, 100))
    (None,)
    >>> pieces((2048, 2048), (0, 0, 300, 300))[0]
    (0, 0, 300, 300)
    """
    height, width = shape
    if height * width <= WHOLE_PIXELS:
        return (None,)
    first: list[Region] = []
    if seen is not None and not _wide(seen):
        first = [seen]
    middle = _middle(seen or (0, 0, height, width))
    blocks = [
        (y, x, min(y + BLOCK_PX, height), min(x + BLOCK_PX, width))
        for y, x in product(range(0, height, BLOCK_PX), range(0, width, BLOCK_PX))
    ]
    if first:
        blocks = [block for block in blocks if not _inside(block, first[0])]
    blocks.sort(key=lambda block: _distance(block, middle))
    return (*first, *blocks)


def wants_overview(shape: tuple[int, int], seen: Region | None) -> bool:
    """Whether coarse labels of all of a plane are worth while before its pieces: it is large, and
    so much of it is in view that the screen shows it coarsely anyway.

    Examples
    --------
    >>> wants_overview((4096, 4096), None), wants_overview((4096, 4096), (0, 0, 500, 500))
    (True, False)
    >>> wants_overview((2048, 2048), None)
    False
    """
    return shape[0] * shape[1] > OVERVIEW_PIXELS and (seen is None or _wide(seen))


def _wide(seen: Region) -> bool:
    return _area(seen) > WHOLE_PIXELS


def _area(region: Region) -> int:
    return (region[2] - region[0]) * (region[3] - region[1])


def _middle(region: Region) -> tuple[float, float]:
    return (region[0] + region[2]) / 2, (region[1] + region[3]) / 2


def _distance(region: Region, point: tuple[float, float]) -> float:
    y, x = _middle(region)
    return (y - point[0]) ** 2 + (x - point[1]) ** 2


def _inside(inner: Region, outer: Region) -> bool:
    return (
        inner[0] >= outer[0]
        and inner[1] >= outer[1]
        and inner[2] <= outer[2]
        and inner[3] <= outer[3]
    )
