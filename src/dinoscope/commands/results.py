"""Results of a prediction on disk, written plane by plane while the model runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from dinoscope.types import ImageInput, PlaneOutput, Table

#: Pixel type of the image that each dense task writes.
DTYPES = {"instance": "uint32", "semantic": "uint8", "depth": "float32", "pca": "float32"}


def planned_outputs(folder: Path, path: Path, tasks: Iterable[str]) -> dict[str, Path]:
    """The files that image `path` will get in `folder`, by task (and ``objects``)."""
    from dinoscope.arrays.files import image_stem

    stem = image_stem(path)
    planned = {task: folder / f"{stem}_{task}.tif" for task in tasks if task in DTYPES}
    if "instance" in planned:
        planned["objects"] = folder / f"{stem}_objects.csv"
    return planned


class ResultFiles:
    """Writes what a prediction yields for one image; used as a context manager.

    Nothing appears under its final name until the whole image is done: after an error or a
    cancellation there are no half-written results.

    Parameters
    ----------
    folder : Path
        Where the files go.
    path : Path
        The image's path; results are named after its stem.
    image : ImageInput
        Gives axes and pixel size.
    tasks : Sequence[str]
        Tasks of the run.

    Raises
    ------
    OutputError
        A file cannot be written.
    """

    def __init__(self, folder: Path, path: Path, image: ImageInput, tasks: Sequence[str]) -> None:
        self.paths = planned_outputs(folder, path, tasks)
        self.planes = 0
        self.objects = 0
        self._image = image
        self._tables: list[Table] = []
        self._writers: dict[str, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        from dinoscope.arrays.files import PlaneWriter

        axes = self._image.plane_axes + "YX"
        shape = tuple(self._image.size(axis) for axis in axes)
        with self._stack as opening:
            for task in self.paths:
                if task == "objects":
                    continue
                rgb = task == "pca"
                self._writers[task] = opening.enter_context(
                    PlaneWriter(
                        self.paths[task],
                        shape + (3,) * rgb,
                        axes + "S" * rgb,
                        DTYPES[task],
                        dict(self._image.pixel_size_um),
                        rgb=rgb,
                    )
                )
            self._stack = opening.pop_all()
        return self

    def add(self, output: PlaneOutput) -> None:
        """Write the next plane."""
        import numpy as np

        for task, writer in self._writers.items():
            writer.write(np.ascontiguousarray(output.arrays[task], dtype=DTYPES[task]))
        if output.objects is not None and "objects" in self.paths:
            self._tables.append(output.objects)
            self.objects += len(next(iter(output.objects.values()), ()))
        self.planes += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            # The writers learn of the error and leave nothing behind.
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            if "objects" in self.paths:
                from dinoscope.arrays.files import write_table

                write_table(self.paths["objects"], join_tables(self._tables))


def join_tables(tables: Sequence[Table]) -> Table:
    """One table out of several; a column that a table lacks is NaN (or empty) there.

    Examples
    --------
    >>> import numpy as np
    >>> join_tables([{"label": np.array([1])}, {"label": np.array([2, 3])}])
    {'label': array([1, 2, 3])}
    """
    import numpy as np

    lengths = [len(next(iter(table.values()), ())) for table in tables]
    columns = dict.fromkeys(name for table in tables for name in table)
    joined: Table = {}
    for name in columns:
        parts = [
            np.asarray(table[name]) if name in table else np.full(length, np.nan)
            for table, length in zip(tables, lengths, strict=True)
            if name in table or length
        ]
        if any(part.dtype.kind in "USO" for part in parts):
            parts = [
                part if part.dtype.kind in "USO" else np.full(len(part), "", dtype=str)
                for part in parts
            ]
        joined[name] = np.concatenate(parts)
    return joined
