"""Write tables as CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope.arrays.output import replacing
from dinoscope.errors import InputError
from dinoscope.types import Table


def write_table(path: str | Path, table: Table) -> None:
    """Write columns of equal length as CSV (UTF-8, one header line); NaN becomes an empty cell.

    Raises
    ------
    InputError
        The columns differ in length.
    OutputError
        The file could not be written.
    """
    write_tables(path, [table])


def write_tables(path: str | Path, tables: Iterable[Table]) -> int:
    """Write tables of the same columns one below the other, each when it comes; returns the rows.

    Raises
    ------
    InputError
        The columns of one differ in length, or it has other columns than the first.
    OutputError
        The file could not be written.
    """
    names: list[str] | None = None
    rows = 0
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        for table in tables:
            lengths = {name: len(column) for name, column in table.items()}
            if len(set(lengths.values())) > 1:
                raise InputError(f"columns have lengths {lengths}", expected="one length")
            if names is None:
                names = list(table)
                writer.writerow(names)
            elif names != list(table):
                raise InputError(f"columns are {list(table)}", expected=f"{names}, as before")
            rows += next(iter(lengths.values()), 0)
            writer.writerows(zip(*(_cells(np.asarray(c)) for c in table.values()), strict=True))
    return rows


def _cells(column: np.ndarray) -> list[Any]:
    if column.dtype.kind != "f":
        return column.tolist()  # type: ignore[no-any-return]
    digits = 7 if column.dtype.itemsize <= 4 else 10
    return ["" if math.isnan(v) else f"{v:.{digits}g}" for v in column.tolist()]
