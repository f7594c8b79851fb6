"""Draw the logs of trainings: ``python -m benchmarks.training_curves``.

Reads the CSV logs in ``benchmarks/results`` and writes ``training.svg`` beside them.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from dinoscope.engine.charts import SERIES, Chart
from dinoscope.engine.report_svg import svg

RESULTS = Path(__file__).parent / "results"
#: Of one chart, as `report_svg` draws it.
WIDTH, HEIGHT = 360, 260
STYLE = (
    "<style>text{font-family:sans-serif;font-size:11px;fill:#222}.name{font-weight:bold;font-size:13px}"
    ".grid{stroke:#ddd}</style>"
)
#: What variants of the ablation have left, in a word.
LEFT = {"tokens zeroed": "detail", "detail zeroed": "tokens", "no backbone": "no ViT"}
Row = dict[str, str]


def read(path: Path) -> list[Row]:
    """Rows of a log."""
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def points(rows: Sequence[Row], column: str, begun: float = 0.0) -> list[tuple[float, float]]:
    """Minutes and values where a column has one."""
    return [(begun + float(r["minutes"]), float(r[column])) for r in rows if r.get(column)]


def curves(
    title: str, y_title: str, lines: Sequence[tuple[str, str, list[tuple[float, float]]]]
) -> Chart:
    """A chart of lines, each a name, a colour and its points; without points, none is drawn."""
    lines = [line for line in lines if line[2]]
    last = max((x for _, _, line in lines for x, _ in line), default=1.0)
    top = max((y for _, _, line in lines for _, y in line), default=1.0)
    chart = Chart("axes", title, "minutes on one or two cores", y_title, (0, last), (0, 1.05 * top))
    for name, colour, line in lines:
        chart.line([x for x, _ in line], [y for _, y in line], colour, name)
    return chart


def embedded(results: Path) -> Chart:
    """The stretches of the embedded model, one after the other."""
    lines, begun = [], 0.0
    kinds = (("val_ap50", "AP, known sizes"), ("val_depth_over_mean", "depth error"))
    for number, path in enumerate(_numbered(results, "embedded_training")):
        rows = read(path)
        for (column, name), colour in zip(kinds, SERIES, strict=False):
            lines.append((name if number == 0 else "", colour, points(rows, column, begun)))
        begun += float(rows[-1]["minutes"])
    return curves("Embedded model, stretches in turn", "held-out images", lines)


def twins(results: Path) -> Chart:
    """Both stretches of the twin that never saw dsb2018: loss on the images it trains on."""
    lines, begun = [], 0.0
    for number, path in enumerate(_numbered(results, "twin_training")):
        rows = read(path)
        line = smooth(points(rows, "loss_instance", begun), 20)
        lines.append(("as before" if number == 0 else "detail silenced", SERIES[number], line))
        begun += float(rows[-1]["minutes"])
    return curves("Twin without dsb2018", "instance loss, mean of 20", lines)


def describing(results: Path) -> Chart:
    """Share of the descriptors' variance that tokens tell."""
    rows = read(results / "describing_training.csv")
    names = (("told_rbc12_crops", "red cells"), ("told_cellcycle_ifc", "cell cycle"))
    lines = [
        (name, colour, points(rows, column))
        for (column, name), colour in zip(names, SERIES, strict=False)
    ]
    return curves("Describing unlabelled cells", "variance told", lines)


def ablation(results: Path) -> Chart:
    """AP on held-out images while the variants of the ablation train on all images."""
    rows = read(results / "ablation_curves.csv")
    names = list(dict.fromkeys(r["variant"] for r in rows if r["images"] == "all images"))
    lines = [
        (
            LEFT.get(name, name),
            colour,
            points(
                [r for r in rows if (r["variant"], r["images"]) == (name, "all images")], "val_ap50"
            ),
        )
        for name, colour in zip(names, SERIES, strict=False)
    ]
    return curves("Ablation, all images", "AP@0.5 of 8 images", lines)


def rods(results: Path) -> Chart:
    """Loss on packed rods with the parts tried in the decoder; with a contact map it is the loss of
    more maps, so those are left out."""
    rows = read(results / "rod_approaches.csv")
    names = dict.fromkeys(r["way"] for r in rows if "contact" not in r["way"])
    lines = [
        (name, colour, smooth(points([r for r in rows if r["way"] == name], "loss_instance"), 4))
        for name, colour in zip(names, SERIES, strict=False)
    ]
    return curves("Rods, parts tried", "instance loss, mean of 4", lines)


def smooth(line: list[tuple[float, float]], count: int) -> list[tuple[float, float]]:
    """Means of `count` neighbouring points."""
    parts = [line[i : i + count] for i in range(0, len(line), count)]
    return [(sum(x for x, _ in p) / len(p), sum(y for _, y in p) / len(p)) for p in parts]


def _numbered(results: Path, stem: str) -> list[Path]:
    """Logs in the order of their numbers; the first has none."""
    found = {
        int(n[1] or 1): p
        for p in results.glob(f"{stem}*.csv")
        if (n := re.fullmatch(rf"{stem}(?:_(\d+))?", p.stem))
    }
    return [found[number] for number in sorted(found)]


CHARTS: tuple[Callable[[Path], Chart], ...] = (embedded, twins, describing, ablation, rods)


def draw(results: Path) -> str:
    """All charts in one SVG, two beside each other."""
    parts = []
    for number, chart in enumerate(CHARTS):
        x, y = number % 2 * WIDTH, number // 2 * HEIGHT
        inside = svg(chart(results)).split(">", 1)[1].removesuffix("</svg>")
        # Groups, since not every viewer draws an SVG within another.
        parts.append(f'<g transform="translate({x} {y})">{inside}</g>')
    wide, high = 2 * WIDTH, (len(CHARTS) + 1) // 2 * HEIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}">{STYLE}'
        f'<rect width="{wide}" height="{high}" fill="white"/>{"".join(parts)}</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    (options.results / "training.svg").write_text(draw(options.results), encoding="utf-8")


if __name__ == "__main__":
    main()
