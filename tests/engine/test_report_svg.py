"""Charts of the report: nothing that is shown loses its name."""

from __future__ import annotations

from xml.etree import ElementTree

from dinoscope.engine.charts import Chart
from dinoscope.engine.report_svg import svg


def texts(chart: Chart) -> list[str]:
    return [e.text or "" for e in ElementTree.fromstring(svg(chart)).iter() if e.tag[-4:] == "text"]


def test_every_series_is_named_beside_a_long_title() -> None:
    chart = Chart("axes", "AP over a very long list of IoU thresholds")
    for name in ("before", "after the tuning"):
        chart.line([0, 1], [0, 1], "#0072b2", name)
    assert {"before", "after the tuning"} <= set(texts(chart))


def test_series_without_room_for_a_name_are_counted() -> None:
    chart = Chart("axes", "ROC")
    for number in range(20):
        chart.line([0, 1], [0, 1], "#0072b2", f"class number {number}")
    shown = [text for text in texts(chart) if text.startswith("class number")]
    assert 0 < len(shown) < 20
    assert f"and {20 - len(shown)} more" in texts(chart)


def test_bars_have_their_whole_name_and_markup_in_names_is_text() -> None:
    chart = Chart("bars", "What became of the objects")
    chart.rows.extend([("false positive, before", 3, "#d55e00"), ("a <b> & c", 1, "#009e73")])
    assert {"false positive, before", "a <b> & c"} <= set(texts(chart))
