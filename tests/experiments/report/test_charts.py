"""Learning curves as SVG: where the points of a curve lie."""

from xml.etree import ElementTree

import pytest

from experiments.report.charts import line_chart


def test_a_power_of_ten_is_one_distance_and_ticks_enclose_the_curve():
    svg = ElementTree.fromstring(
        line_chart({"a": {0: 80.0, 500: 8.0, 1000: 0.8}, "b": {1000: 0.0}}, "error, %", "<&")
    )
    assert svg.get("role") == "img" and svg.get("aria-label") == "<&"
    first, second = (
        [tuple(map(float, p.split(","))) for p in line.get("points").split()] for line in svg.iter("polyline")
    )
    (x0, y0), (x1, y1), (x2, y2) = first
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) and y1 - y0 == pytest.approx(y2 - y1, abs=0.2)
    assert x0 < x1 and y0 < y1  # to the right is later, below is less
    texts = [text.text for text in svg.iter("text")]
    assert texts[:8] == ["0.5", "1", "2", "5", "10", "20", "50", "100"]
    assert texts[8:11] == ["0", "500", "1,000"]
    heights = [float(grid.get("d").split()[1].split("H")[0]) for grid in svg.iter("path")]
    assert heights[0] > y2 > heights[1] and heights[-1] < y0 < heights[-2]
    assert second[0] == (x2, heights[0])  # zero has no logarithm
