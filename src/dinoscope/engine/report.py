"""A report of an evaluation: one HTML file that needs nothing else, with tables and JSON beside."""

from __future__ import annotations

import base64
import io
import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from dinoscope import __version__
from dinoscope.arrays.faults import FAULTS
from dinoscope.arrays.output import replacing
from dinoscope.arrays.tables import write_table
from dinoscope.engine.charts import SERIES, charts
from dinoscope.engine.evaluate.compare import Comparison, less_is_better
from dinoscope.engine.evaluate.evaluation import Evaluation
from dinoscope.engine.report_svg import svg
from dinoscope.types import Table

#: Figures at the top, by task; all others follow in a longer table.
HEADLINE = {
    "instance": ("ap50", "map", "f1_50", "pq", "seg", "dice", "ap50_pooled", "coco_map"),
    "semantic": ("iou", "dice", "boundary_f1", "accuracy", "iou_foreground"),
    "depth": ("rmse", "mae", "absrel", "delta1", "rmse_fit", "rmse_mean", "rmse_focus_fit"),
    "classification": (
        *("accuracy", "balanced_accuracy", "f1_macro", "f1_weighted"),
        *("roc_auc", "average_precision", "ece"),
    ),
}
_LIBRARIES = ("numpy", "scipy", "scikit-image", "torch", "timm")
#: Rows of the tables of the worst.
_ROWS = 25

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff;margin:0 auto;max-width:1140px;
padding:24px}
h1{font-size:26px;margin:0 0 4px}h2{font-size:19px;margin:30px 0 8px;border-bottom:1px solid #ddd}
p{margin:6px 0}.quiet{color:#666}.note{background:#fff6dd;border-left:4px solid #e69f00;
padding:6px 12px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:3px 14px 3px 0;text-align:left;border-bottom:1px solid #eee;vertical-align:top}
td.n,th.n{text-align:right}th{color:#666;font-weight:600}
.big{display:flex;flex-wrap:wrap;gap:12px;margin:14px 0}
.big div{border:1px solid #ddd;border-radius:8px;padding:10px 16px;min-width:120px}
.big b{display:block;font-size:22px;margin-top:4px}
.big small{color:#666;font-weight:400;font-size:13px}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(340px,1fr));gap:14px}
svg{width:100%;height:auto;border:1px solid #eee;border-radius:8px;background:#fff}
svg text{font:11px system-ui,sans-serif;fill:#444}svg text.name{font-weight:600;font-size:13px}
svg .grid{stroke:#e6e6e6;stroke-width:1}
.cases{display:grid;grid-template-columns:repeat(auto-fill,minmax(200px,1fr));gap:12px}
.cases img{width:100%;image-rendering:pixelated;border-radius:6px;background:#000}
.key span{display:inline-block;margin-right:14px}.key i{display:inline-block;width:12px;height:12px;
border-radius:3px;margin-right:5px;vertical-align:-1px}
details{margin:8px 0}summary{cursor:pointer;color:#0072b2}
@media print{body{max-width:none}details{display:block}}
"""


def write_report(
    folder: str | Path,
    evaluations: Mapping[str, Evaluation],
    about: Mapping[str, Any],
    comparison: Comparison | None = None,
) -> dict[str, Path]:
    """Write ``report.html``, ``evaluation.json``, ``per_image.csv`` and ``objects.csv``.

    Parameters
    ----------
    folder : str or Path
        Made if need be; files of these names are replaced.
    evaluations : mapping
        One evaluation, or two that are compared, by the name that is shown.
    about : mapping
        What was evaluated: shown as a table; values may be mappings themselves (a model's card).
    comparison : Comparison, optional
        Second against first.

    Returns
    -------
    dict
        The files by kind: ``html json per_image objects``.

    Raises
    ------
    OutputError
        A file could not be written.
    """
    folder = Path(folder)
    facts = {**about, "written": _now(), "versions": versions()}
    files = {"html": folder / "report.html", "json": folder / "evaluation.json"}
    with replacing(files["html"]) as part:
        part.write_text(html(evaluations, facts, comparison), encoding="utf-8")
    document = {
        "about": facts,
        "evaluations": {name: one.document() for name, one in evaluations.items()},
    }
    if comparison is not None:
        document["comparison"] = comparison.document()
    with replacing(files["json"]) as part:
        text = json.dumps(_plain(document), indent=1, ensure_ascii=False, allow_nan=False)
        part.write_text(text + "\n", encoding="utf-8")
    for number, one in enumerate(evaluations.values()):
        tail = "" if number == 0 else f"_{number + 1}"
        files[f"per_image{tail}"] = folder / f"per_image{tail}.csv"
        write_table(files[f"per_image{tail}"], rows_table(one.per_image))
        if one.objects:
            files[f"objects{tail}"] = folder / f"objects{tail}.csv"
            write_table(files[f"objects{tail}"], one.objects)
    return files


def rows_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows as columns; what a row lacks is NaN, or empty between texts."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    table: Table = {}
    for name in names:
        texts = any(isinstance(row.get(name), str) for row in rows)
        missing = "" if texts else float("nan")
        values = [row.get(name, missing) for row in rows]
        table[name] = np.array(values, dtype=object if texts else None)
    return table


def versions() -> dict[str, str]:
    """This package, Python, the system, and the libraries that figures depend on."""
    found = {"dinoscope": __version__, "Python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | {"system": f"{platform.system()} {platform.machine()}"}


def html(
    evaluations: Mapping[str, Evaluation],
    about: Mapping[str, Any],
    comparison: Comparison | None = None,
) -> str:
    """The report as the text of one HTML file."""
    first = next(iter(evaluations.values()))
    parts = [f"<h1>Evaluation: {escape(first.task)}</h1>"]
    count = first.scores.get("n", 0)
    parts.append(f'<p class="quiet">{escape(" against ".join(evaluations))} · {count} scored</p>')
    if comparison is not None:
        parts.append(f'<p class="note">{escape(comparison.verdict())}</p>')
    notes = dict.fromkeys(note for one in evaluations.values() for note in one.notes)
    parts += [f'<p class="note">{escape(note)}</p>' for note in notes]
    parts.append(_headline(evaluations))
    parts.append('<p class="quiet">In brackets: 95 % interval by bootstrap over images.</p>')
    if comparison is not None:
        parts += ["<h2>Paired comparison</h2>", _comparison(comparison, list(evaluations))]
    parts.append("<h2>Plots</h2>")
    parts.append(f'<div class="plots">{"".join(map(svg, charts(evaluations)))}</div>')
    parts += [_cases(name, one, len(evaluations) > 1) for name, one in evaluations.items()]
    parts += [_worst(name, one, len(evaluations) > 1) for name, one in evaluations.items()]
    parts += ["<h2>All figures</h2>", _figures(evaluations)]
    parts += ["<h2>What was evaluated</h2>", _facts(about)]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Evaluation: {escape(first.task)}</title><style>{_STYLE}</style></head>"
        f"<body>\n{body}\n</body></html>\n"
    )


def number(value: Any) -> str:
    """A figure for reading.

    Examples
    --------
    >>> number(0.123456), number(12), number(float("nan"))
    ('0.123', '12', '–')
    """
    if not isinstance(value, float | np.floating):
        return str(value)
    figure = float(value)
    if not np.isfinite(figure):
        return "–"
    return f"{figure:.3f}" if 0.01 <= abs(figure) < 100 or figure == 0 else f"{figure:.3g}"


def _headline(evaluations: Mapping[str, Evaluation]) -> str:
    first = next(iter(evaluations.values()))
    unit = f" {first.scores['unit']}" if "unit" in first.scores else ""
    cards = []
    for name in HEADLINE[first.task]:
        if not any(name in one.scores for one in evaluations.values()):
            continue
        lines = []
        for one, colour in zip(evaluations.values(), SERIES, strict=False):
            low, high = one.intervals.get(name, (None, None))
            shown = f" <small>[{number(low)}, {number(high)}]</small>" if low is not None else ""
            plain = name in ("absrel", "delta1") or first.task != "depth"
            value = number(one.scores.get(name, float("nan")))
            mark = f' style="border-left:4px solid {colour};padding-left:8px"'
            mark = mark if len(evaluations) > 1 else ""
            lines.append(f"<b{mark}>{value}{'' if plain else escape(unit)}{shown}</b>")
        cards.append(f"<div><small>{escape(name)}</small>{''.join(lines)}</div>")
    return f'<div class="big">{"".join(cards)}</div>'


def _comparison(comparison: Comparison, names: Sequence[str]) -> str:
    head = ("figure", "difference", "95 % interval", "p (sign flips)", "p (Wilcoxon)", "pairs")
    rows = [
        (
            f"{name}{' (less is better)' if less_is_better(name) else ''}",
            f"{test.difference:+.4f}",
            "–" if np.isnan(test.low) else f"{test.low:+.4f} to {test.high:+.4f}",
            "–" if test.n == 1 else f"{test.p_value:.3g}",
            "–" if np.isnan(test.p_wilcoxon) else f"{test.p_wilcoxon:.3g}",
            str(test.n),
        )
        for name, test in comparison.tests.items()
    ]
    why = (
        f"{names[-1]} minus {names[0]}, image by image. The test flips the signs of the "
        "differences: it tests their mean, which is what is reported, and needs no distribution. "
        "Several figures are tested; decide on the one that matters before looking."
    )
    return _table(head, rows) + f'<p class="quiet">{escape(why)}</p>'


def _cases(name: str, one: Evaluation, several: bool) -> str:
    if not one.pictures:
        return ""
    shown = []
    for picture in one.pictures:
        where = f", part at row {picture.origin[0]}, column {picture.origin[1]}"
        text = f"{picture.image}, plane {picture.plane}: {number(picture.figure)}"
        text += where if picture.origin != (0, 0) else ""
        data = base64.b64encode(_png(picture.pixels)).decode("ascii")
        shown.append(
            f'<div><img alt="{escape(text)}" src="data:image/png;base64,{data}">'
            f"<small>{escape(text)}</small></div>"
        )
    key = ""
    if one.task != "depth":
        wanted = (1, 2, 3, 4, 5) if one.task == "instance" else (1, 2, 3, 6)
        key = "".join(
            f'<span><i style="background:{FAULTS[code][1]}"></i>{FAULTS[code][0]}</span>'
            for code in wanted
        )
        key = f'<p class="key">{key}<span>outlines: the truth</span></p>'
    else:
        key = '<p class="quiet">Red: predicted too high, blue: too low, grey: unknown.</p>'
    title = "Worst images" + (f": {name}" if several else "")
    return f'<h2>{escape(title)}</h2>{key}<div class="cases">{"".join(shown)}</div>'


def _worst(name: str, one: Evaluation, several: bool) -> str:
    table = one.objects
    if not table:
        return ""
    rows = min(_ROWS, len(next(iter(table.values()))))
    what = "Answers that are wrong" if one.task == "classification" else "Worst objects"
    cells = [[number(column[i]) for column in table.values()] for i in range(rows)]
    title = what + (f": {name}" if several else "")
    head = [column.replace("_", " ") for column in table]
    return f"<h2>{escape(title)}</h2><details><summary>{rows} rows</summary>" + (
        _table(head, cells) + "</details>"
    )


def _figures(evaluations: Mapping[str, Evaluation]) -> str:
    names = dict.fromkeys(name for one in evaluations.values() for name in one.scores)
    rows = []
    for name in names:
        cells = [name]
        for one in evaluations.values():
            value = one.scores.get(name, float("nan"))
            low, high = one.intervals.get(name, (None, None))
            cells += [number(value), f"{number(low)} to {number(high)}" if low is not None else ""]
        rows.append(cells)
    head = ["figure"]
    for name in evaluations:
        head += [name if len(evaluations) > 1 else "value", "95 % interval"]
    return f"<details open><summary>{len(rows)} figures</summary>{_table(head, rows)}</details>"


def _facts(about: Mapping[str, Any]) -> str:
    rows = []
    for name, value in about.items():
        if value in (None, "", [], {}, ()):
            continue
        if isinstance(value, Mapping):
            kept = {k: v for k, v in value.items() if v not in (None, "", [], {}, ())}
            text = "<br>".join(f"{escape(str(k))}: {escape(_fact(v))}" for k, v in kept.items())
        else:
            text = escape(_fact(value))
        rows.append(f"<tr><th>{escape(str(name).replace('_', ' '))}</th><td>{text}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_fact(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_fact, value))
    return number(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _plain(value: Any) -> Any:
    """In types that JSON knows; numbers that are not finite become ``null``."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    return str(value)
