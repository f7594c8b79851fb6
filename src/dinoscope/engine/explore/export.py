"""Points with their tokens as a file: CSV, Parquet, AnnData."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.arrays.output import replacing
from dinoscope.arrays.tables import write_tables
from dinoscope.engine.explore.points import PointSet
from dinoscope.errors import InputError, UsageError
from dinoscope.types import Table

SUFFIXES = (".csv", ".parquet", ".h5ad")
#: Rows that are written at once.
CHUNK = 10_000


def export_points(
    points: PointSet,
    path: str | Path,
    extra: Mapping[str, np.ndarray] | None = None,
    *,
    features: bool = True,
) -> tuple[int, int]:
    """Write points.

    Parameters
    ----------
    points : PointSet
        Their table is written whole.
    path : path
        Its ending chooses the format: ``.csv``; ``.parquet`` (needs pandas and pyarrow); ``.h5ad``
        (needs anndata: tokens are ``X``, the table is ``obs``).
    extra : mapping of str to (n,) or (n, K) array, optional
        Further columns; an array of K columns gives ``NAME_0`` to ``NAME_K-1``, in ``.h5ad`` an
        entry of ``obsm``.
    features : bool
        Write tokens too, as columns ``f0``, ``f1``, … (always in ``.h5ad``).

    Returns
    -------
    tuple of int
        Rows and columns.

    Raises
    ------
    InputError
        Another ending, or a column of another length.
    UsageError
        A library is missing; says which.
    OutputError
        The file could not be written.
    """
    path = Path(path)
    further = {name: np.asarray(values) for name, values in (extra or {}).items()}
    for name, values in further.items():
        if values.ndim not in (1, 2) or len(values) != len(points):
            raise InputError(
                f"column {name!r} has shape {values.shape}",
                expected=f"{len(points)} rows, one for each point",
            )
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _write_csv(points, path, further, features)
    if suffix == ".parquet":
        return _write_parquet(points, path, further, features)
    if suffix == ".h5ad":
        return _write_anndata(points, path, further)
    raise InputError(f"points cannot be written as {path.name!r}", expected=" or ".join(SUFFIXES))


def _columns(points: PointSet, extra: Mapping[str, np.ndarray], rows: slice) -> Table:
    table = {name: column[rows] for name, column in points.table.items()}
    for name, values in extra.items():
        if values.ndim == 1:
            table[name] = values[rows]
        else:
            table |= {f"{name}_{k}": values[rows, k] for k in range(values.shape[1])}
    return table


def _tokens(points: PointSet, rows: slice) -> Table:
    values = points.features(np.arange(rows.start, rows.stop))
    return {f"f{k}": values[:, k] for k in range(values.shape[1])}


def _write_csv(
    points: PointSet, path: Path, extra: Mapping[str, np.ndarray], features: bool
) -> tuple[int, int]:
    columns = 0

    def parts() -> Iterator[Table]:
        nonlocal columns
        for start in range(0, len(points), CHUNK):
            rows = slice(start, min(len(points), start + CHUNK))
            table = _columns(points, extra, rows)
            table |= _tokens(points, rows) if features else {}
            columns = len(table)
            yield table

    return write_tables(path, parts()), columns


def _write_parquet(
    points: PointSet, path: Path, extra: Mapping[str, np.ndarray], features: bool
) -> tuple[int, int]:
    pandas = _needed("pandas", "Parquet", "pandas pyarrow")
    _needed("pyarrow", "Parquet", "pyarrow")
    rows = slice(0, len(points))
    table = _columns(points, extra, rows) | (_tokens(points, rows) if features else {})
    with replacing(path) as part:
        pandas.DataFrame(table).to_parquet(part, index=False)
    return len(points), len(table)


def _write_anndata(
    points: PointSet, path: Path, extra: Mapping[str, np.ndarray]
) -> tuple[int, int]:
    anndata = _needed("anndata", "AnnData", "anndata")
    pandas = _needed("pandas", "AnnData", "anndata")
    flat = {name: values for name, values in extra.items() if values.ndim == 1}
    table = _columns(points, flat, slice(0, len(points)))
    names = [str(n) for n in range(len(points))]
    data = anndata.AnnData(
        X=points.features(),
        obs=pandas.DataFrame(table, index=names),
        var=pandas.DataFrame(index=[f"f{k}" for k in range(points.dim)]),
        obsm={name: values for name, values in extra.items() if values.ndim == 2},
    )
    with replacing(path) as part:
        data.write_h5ad(part)
    return len(points), len(table) + points.dim


def _needed(module: str, what: str, packages: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{what} files need {module!r}, which is not installed",
            hint=f"Install it with: pip install {packages}. CSV needs nothing more.",
        ) from error
